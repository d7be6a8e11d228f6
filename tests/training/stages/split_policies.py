"""A few updates of PPO, GRPO, DPO and KTO, run in each worker by test_split_policies.

The runs are from files to files, with full training and with adapters.
"""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from tests.support.errors import refused
from tests.training.rl.rollouts import Remembering, rollout_of
from tests.training.rl.toy import TOKENS, no_autocast, toy_prompts
from tests.training.rl.toy_preferences import toy_dpo, toy_kto, toy_models, toy_pairs, toy_thumbs
from tests.training.stages.rows import pair_rows, thumb_rows
from tests.training.toys import WORDS, ProgressList, sft_rows, toy_model, user, write_lines
from tests.training.workers import tell
from training.data.chat import load_chat
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.model.transformer import Decoder
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism, arrange, arrange_context, distribute_views
from training.rl.advantages import KlConfig
from training.rl.reference import WatchConfig
from training.rl.rollout import SampleRequest, response_log_probs
from training.rl.samplers import Samplers
from training.rl.scores import Answer, score_by_verifier
from training.runtime.context import Lineage, Machine, Progress, RunContext
from training.runtime.ranks import all_different
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import dpo, grpo, kto, ppo, reward_model
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.kto import KtoConfig
from training.stages.policy_config import SftMix
from training.stages.policy_loop import local_engine
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig

LORA = LoraConfig(rank=2)
FAST = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0)
MACHINE = Machine(threads=1)
# Three held-out prompts for four workers: one worker has none.
WATCH = WatchConfig(prompts=3, max_response_tokens=6, length_floor_fraction=0.0)


def write_data(directory: Path) -> None:
    """Write the initial model, the data of all stages, and a reward model (full and adapter)."""
    first = toy_model(directory / "first", family="qwen3")  # includes norms of heads
    prompts = [
        {"messages": user(f"{word} {i}"), "task": f"{1 + i % 2}"}
        for i, word in enumerate(WORDS * 2)
    ]
    write_lines(directory / "prompts.jsonl", prompts)
    write_lines(directory / "sft.jsonl", sft_rows(16))
    write_lines(directory / "pairs.jsonl", pair_rows(35, noise=0.0))
    write_lines(directory / "thumbs.jsonl", thumb_rows(18, 17))
    for name, lora in (("reward", None), ("reward-adapter", LORA)):
        config = RewardModelConfig(
            model_directory=first,
            data_path=directory / "pairs.jsonl",
            output_directory=directory / name,
            lineage=Lineage(name),
            optimizer=OptimizerConfig(learning_rate=3e-3),
            lora=lora,
            machine=MACHINE,
        )
        reward_model.run(
            config, RunContext(DirectoryCheckpoints(directory / f"{name}-run"), ProgressList())
        )


class Short:
    """Score short texts higher, and more so if the task of the prompt asks for them."""

    def __init__(self) -> None:
        self._lengths: list[int] = []

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        self._lengths += [len(answer.text) for answer in answers]
        return [-len(answer.text) * float(answer.task) for answer in answers]

    def take_figures(self) -> dict[str, float]:
        taken, self._lengths = self._lengths, []
        return {"long": sum(length > 8 for length in taken) / max(1, len(taken))}


def configs(directory: Path, into: Path, parallelism: Parallelism) -> dict[str, Any]:
    """Return the configs with one minibatch per epoch.

    Smaller minibatches would depend on the number of workers.
    """
    common = {
        "model_directory": directory / "first",
        "machine": MACHINE,
        "parallelism": parallelism,
    }
    loop = {"data_path": directory / "prompts.jsonl", "updates": 3, "checkpoint_every_updates": 2}
    loop |= {"max_response_tokens": 6, "length_floor_fraction": 0.0, "policy_optimizer": FAST}
    preferences = {
        "optimizer": FAST,
        "watch": WATCH,
        "checkpoint_every_steps": 2,
        "held_out_fraction": 0.1,
    }
    settings: dict[str, Any] = {
        "ppo": PpoConfig(
            reward_model_directory=directory / "reward",
            output_directory=into / "ppo",
            lineage=Lineage("ppo"),
            prompts_per_update=8,
            minibatch_rows=8,
            kl=KlConfig(initial=0.05, target_nats=1.0, horizon_samples=100),
            critic_optimizer=FAST,
            judge_directory=directory / "reward",
            judge_base_directory=directory / "first",
            **common,
            **loop,
        ),
        "grpo": GrpoConfig(
            reward_model_directory=None,
            output_directory=into / "grpo",
            lineage=Lineage("grpo"),
            prompts_per_update=4,
            samples_per_prompt=4,
            minibatch_rows=16,
            # one step per update: the graph of scoring is reused
            epochs_per_update=1,
            sft_mix=SftMix(directory / "sft.jsonl", rows=4),
            **common,
            **loop,
        ),
        "dpo": DpoConfig(
            data_path=directory / "pairs.jsonl",
            output_directory=into / "dpo",
            lineage=Lineage("dpo"),
            batch_pairs=8,
            microbatch_pairs=2,
            **common,
            **preferences,
        ),
        "kto": KtoConfig(
            data_path=directory / "thumbs.jsonl",
            output_directory=into / "kto",
            lineage=Lineage("kto"),
            batch_rows=8,
            microbatch_rows=2,
            **common,
            **preferences,
        ),
    }
    for name in list(settings) if parallelism.tensor == 1 else ():
        lora = {
            "lora": LORA,
            "output_directory": into / f"{name}-lora",
            "lineage": Lineage(f"{name}-lora"),
        }
        if name == "ppo":
            lora |= {
                "reward_model_directory": directory / "reward-adapter",
                "judge_directory": directory / "reward-adapter",
            }
        settings[f"{name}-lora"] = replace(settings[name], **lora)
    return settings


RUNS: dict[str, Callable[[Any, RunContext], object]] = {
    "ppo": ppo.run,
    "grpo": lambda config, context: grpo.run(config, context, Short()),
    "dpo": dpo.run,
    "kto": kto.run,
}


class Watching(ProgressList):
    """Count the decoders in this process, and the fully gathered ones."""

    def __init__(self) -> None:
        super().__init__()
        self.decoders, self.whole = 0, 0

    def __call__(self, progress: Progress) -> None:
        super().__call__(progress)
        held = [thing for thing in gc.get_objects() if issubclass(type(thing), Decoder)]
        self.decoders = len(held)
        self.whole = sum(
            not all(isinstance(p, DTensor) for p in decoder.parameters()) for decoder in held
        )


def policies(
    directory: Path,
    rank: int,
    world: int,
    name: str,
    layout: str,
    only: str = "",
    samplers: Samplers | None = None,
) -> None:
    """Run all stages, or one of them; every worker writes the figures of all steps."""
    into, ranks = directory / name, all_different(rank, world)
    for run, config in configs(directory, into, Parallelism(**json.loads(layout))).items():
        if only not in ("", run):
            continue
        gc.collect()
        progress = Watching()
        checkpoints = DirectoryCheckpoints(into / f"{run}-run", ranks)
        RUNS[run.split("-")[0]](config, RunContext(checkpoints, progress, ranks, samplers=samplers))
        tell(progress.steps, into, run, rank)
        if rank == 0:
            (into / f"{run}-held.json").write_text(json.dumps([progress.decoders, progress.whole]))


def uneven_samples(directory: Path, rank: int, world: int) -> None:
    """End the responses of one worker at once, those of the other never.

    Gathering layer by layer would block in this case.
    """
    ranks, models = arrange(Parallelism(shard=2), all_different(rank, world)), toy_models()
    distribute_views((models.policy, models.reference), ranks)
    stop_ids = tuple(range(TOKENS)) if rank == 0 else ()
    prompts = replace(toy_prompts(4), stop_ids=stop_ids)
    for copies in (1, 2):
        rollout = local_engine(models.policy, prompts)(0).sample(
            SampleRequest.of(prompts.ids, copies, 5, 1.0, range(4))
        )
        assert rollout.response_ids_BR.shape[1] == (1 if rank == 0 else 5)
        torch.autograd.backward(response_log_probs(models.policy, rollout, 1.0).sum())
    pairs, thumbs = (
        replace(data, stop_ids=stop_ids) for data in (toy_pairs(32, 0.0), toy_thumbs(64, 0.0))
    )
    contexts = [
        RunContext(DirectoryCheckpoints(directory / name, ranks), ProgressList(), ranks)
        for name in ("dpo", "kto")
    ]
    dpo.train(models, pairs, toy_dpo(epochs=1, watch=WATCH), contexts[0], no_autocast)
    kto.train(models, thumbs, toy_kto(epochs=1, watch=WATCH), contexts[1], no_autocast)


def refusals(directory: Path, rank: int, world: int) -> None:
    """Check the refusals before training, on every worker."""
    ranks = all_different(rank, world)
    context = RunContext(DirectoryCheckpoints(directory / "run", ranks), ProgressList(), ranks)
    shards, tensor = Parallelism(shard=2), Parallelism(tensor=2)
    for name, config in configs(directory, directory / "out", shards).items():
        if name.endswith("-lora"):
            with refused(ConfigError, field="parallelism.tensor", reason="CONFLICT"):
                RUNS[name.split("-")[0]](replace(config, parallelism=tensor), context)
    uneven = configs(directory, directory / "out", shards)
    with refused(ConfigError, field="batch_pairs", reason="OUT_OF_RANGE", limit="a multiple of 2"):
        dpo.run(replace(uneven["dpo"], batch_pairs=7), context)
    with refused(ConfigError, field="batch_rows", reason="OUT_OF_RANGE", limit="a multiple of 2"):
        kto.run(replace(uneven["kto"], batch_rows=7), context)
    assert (
        arrange_context(Parallelism(), context, no_autocast, batch_rows=7).ranks == ranks
    )  # no waiting if each worker has the full model


def one_verdict(directory: Path, rank: int, world: int) -> None:
    """Check that one worker of a split model calls the verifier, and that all have the scores."""
    ranks = arrange(Parallelism(tensor=2), all_different(rank, world))
    verifier, chat = (
        Remembering(rank + 1.0, rank + 2.0),
        load_chat(toy_model(directory / f"of-{rank}")),
    )
    scores = score_by_verifier(verifier, chat.decode, ranks)(rollout_of([[3], [4]], [True, True]))
    assert scores.tolist() == [1.0, 2.0]
    assert len(verifier.answers) == (2 if rank == 0 else 0)
