"""Three training steps on shared rows, run in each worker by test_parallelism.

The resulting figures are compared between layouts.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tests.support.errors import refused
from tests.training.rl.toy import TOKENS, no_autocast, toy_decoder
from tests.training.toys import ProgressList
from training.data.tensors import TokenisedExample, microbatches
from training.errors import ConfigError
from training.losses.log_probs import token_log_probs
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone, trainable_backbone
from training.model.lora import LoraConfig, add_adapter
from training.model.reward import ScalarHead, ScalarModel
from training.optim.gradients import apply_gradients
from training.optim.optimizers import OptimizerConfig, build_optimizer
from training.parallelism.layout import Parallelism, arrange, distribute, gathered, whole_weights
from training.rl.rollout import CachedEngine, SampleRequest
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import Ranks, all_different
from training.runtime.training_state import DirectoryCheckpoints, TrainingState
from training.stages import reward_model, sft
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

ROWS, COLUMNS, STEPS, KEPT_STEP = 8, 12, 4, 2
NORMS_HEADS = ("qwen3", "gemma3")


def train(
    directory: Path, rank: int, world: int, name: str, layout: str, begin_from: str = ""
) -> None:
    """Run all steps, or those after the checkpoint of another layout.

    layout: fields of Parallelism, `narrow` and `family`.
    """
    fields = json.loads(layout)
    narrow, family = fields.pop("narrow", False), fields.pop("family", "llama")
    ranks = replace(arrange(Parallelism(**fields), all_different(rank, world)), narrow=narrow)
    decoder = toy_decoder(family=family)
    distribute(decoder, ranks)
    scalar = ScalarModel(Backbone(decoder), ScalarHead(decoder.config.hidden_size, seed=5))
    named = scalar.named_parameters()
    parameters = [parameter for _, parameter in named]
    optimizer = build_optimizer(named, OptimizerConfig(learning_rate=1e-3, gradient_clip=0.5))
    checkpoints = DirectoryCheckpoints(directory / name, ranks)
    state = TrainingState({"model": named}, {"model": optimizer}, ranks)
    first = (
        int(state.read(directory / begin_from / f"step-{KEPT_STEP:06d}")["step"])
        if begin_from
        else 0
    )
    figures: dict[str, float] = {}
    for step in range(first, STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            loss = accumulate(scalar, ranks, step)
        figures[f"loss {step}"] = float(ranks.sum(loss.detach()))
        if step == STEPS - 1:  # by then different gradients would show
            optimizer.register_step_pre_hook(lambda *_: figures.update(gradients(named)))
        figures[f"norm {step}"] = apply_gradients(optimizer, parameters, 1e-3, 0.5, ranks)
        if step + 1 == KEPT_STEP:
            checkpoints.save(step + 1, lambda into: state.write(into, {"step": KEPT_STEP}))
    require_same_everywhere(figures, world)
    weights = whole_weights(scalar, ranks)
    assert bool(weights) == (rank == 0)
    figures |= {
        f"sum of {key}": float(weight.double().square().sum()) for key, weight in weights.items()
    }
    figures |= sampled(decoder, ranks)
    if rank == 0:
        (directory / f"{name}.json").write_text(json.dumps(figures))


def families(directory: Path, rank: int, world: int, name: str, layout: str) -> None:
    """Run `train` for families with norms of queries and keys."""
    for family in NORMS_HEADS:
        train(
            directory,
            rank,
            world,
            f"{family} {name}",
            json.dumps(json.loads(layout) | {"family": family}),
        )


def gradients(named: Sequence[tuple[str, nn.Parameter]]) -> dict[str, float]:
    """Return the gradient norm of each weight before the optimizer step."""
    wholes = ((name, whole(weight.grad)) for name, weight in named if weight.grad is not None)
    return {f"gradient of {name}": float(gradient.norm()) for name, gradient in wholes}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def require_same_everywhere(figures: dict[str, float], world: int) -> None:
    """Check that replicas of a weight have equal gradients; otherwise they would diverge."""
    told = [figures] * world
    if world > 1:
        dist.all_gather_object(told, figures)
    for rank, others in enumerate(told):
        assert others == figures, (
            f"{rank}: {[key for key in figures if others[key] != figures[key]]}"
        )


def accumulate(scalar: ScalarModel, ranks: Ranks, step: int) -> torch.Tensor:
    """Return the loss of a language model and a head on the rows of this worker, in two
    microbatches.
    """
    generator = torch.Generator().manual_seed(step)
    ids_BT = torch.randint(2, TOKENS, (ROWS, COLUMNS), generator=generator)
    mine = ids_BT[torch.tensor(ranks.share(range(ROWS)))]
    total = torch.zeros(())
    for part_BT in mine.split(max(1, len(mine) // 2)):
        decoder = scalar.backbone.decoder
        logits_BTV = decoder.logits(scalar.backbone.hidden(part_BT)[:, :-1])
        loss = -token_log_probs(logits_BTV, part_BT[:, 1:]).sum() / (ROWS * (COLUMNS - 1))
        loss = loss + scalar.everywhere(part_BT, torch.ones_like(part_BT)).square().sum() / (
            ROWS * COLUMNS
        )
        torch.autograd.backward(loss)
        total = total + loss.detach()
    return total


def sampled(decoder: torch.nn.Module, ranks: Ranks) -> dict[str, float]:
    """Sample a different number of tokens on every worker.

    Without gathered weights they would wait for each other until the timeout.
    """
    with gathered(decoder):  # type: ignore[arg-type]
        engine = CachedEngine(Backbone(decoder), stop_ids=())  # type: ignore[arg-type]
        rollout = engine.sample(SampleRequest.of([[3, 4, 5]], 2, 6 + ranks.data_rank, 1.0, [7]))
    return {"sampled": float(rollout.response_ids_BR[:, :6].sum())}


def gathers(directory: Path, rank: int, world: int, layout: str) -> None:
    """Check the types of weights while a layer computes and while a policy samples."""
    ranks = replace(
        arrange(Parallelism(**json.loads(layout)), all_different(rank, world)), narrow=True
    )
    decoder, seen = toy_decoder(), {}
    exact = {name: weight.detach().clone() for name, weight in decoder.named_parameters()}
    distribute(decoder, ranks)
    for name, module in decoder.named_modules():
        if name.startswith("model.layers.0"):  # its shards are gathered by then
            module.register_forward_pre_hook(
                lambda module, _, name=name: seen.update(
                    {
                        f"{name}.{key}": weight.dtype
                        for key, weight in module.named_parameters(recurse=False)
                    }
                )
            )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder.logits(decoder(torch.ones(1, 3, dtype=torch.long)))
    assert {dtype for name, dtype in seen.items() if "norm" not in name} == {torch.bfloat16}
    assert {dtype for name, dtype in seen.items() if "norm" in name} == {torch.float32}
    for _ in range(2):  # released shards must be gathered again
        with gathered(decoder):
            for name, weight in decoder.named_parameters():
                assert torch.equal(whole(weight), exact[name]), name
            seen.clear()
            decoder(torch.ones(1, 3, dtype=torch.long))
            assert set(seen.values()) == {torch.float32}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            decoder(torch.ones(1, 3, dtype=torch.long))
    weights = whole_weights(decoder, ranks)
    assert rank > 0 or all(torch.equal(weights[name], exact[name]) for name in exact)


def stages(directory: Path, rank: int, world: int, name: str, layout: str) -> None:
    """Run SFT, full and with an adapter, and a reward model; their outputs are compared."""
    mine, parallelism = directory / name, Parallelism(**json.loads(layout))
    ranks = all_different(rank, world)

    def context(stage: str) -> RunContext:
        return RunContext(DirectoryCheckpoints(mine / f"{stage}-run", ranks), ProgressList(), ranks)

    full = SftConfig(
        model_directory=directory / "first",
        data_path=directory / "sft.jsonl",
        output_directory=mine / "full",
        lineage=Lineage("full"),
        batch_rows=8,
        microbatch_rows=2,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        machine=Machine(threads=1),
        parallelism=parallelism,
    )
    sft.run(full, context("full"))
    if parallelism.tensor == 1:
        adapted = replace(
            full,
            output_directory=mine / "adapted",
            lineage=Lineage("adapted"),
            lora=LoraConfig(rank=2),
        )
        sft.run(adapted, context("adapted"))
    judge = RewardModelConfig(
        model_directory=directory / "first",
        data_path=directory / "pairs.jsonl",
        output_directory=mine / "reward",
        lineage=Lineage("reward"),
        batch_pairs=8,
        microbatch_pairs=2,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        machine=Machine(threads=1),
        parallelism=parallelism,
    )
    reward_model.run(judge, context("reward"))


def recomputed(directory: Path, rank: int, world: int) -> None:
    """Compare gradients of SFT over shards with and without activation checkpointing."""
    ranks = arrange(Parallelism(shard=world), all_different(rank, world))
    examples = [TokenisedExample((2, 3, 4 + row), (5, 6 + row, 7)) for row in range(2 * world)]
    for lora in (None, LoraConfig(rank=2)):
        found: list[list[torch.Tensor]] = []
        for again in (False, True):
            backbone = trainable_backbone(toy_decoder(), "policy", lora, seed=1)
            if again:
                checkpoint_activations(backbone.decoder)
            distribute(backbone.decoder, ranks)
            named = backbone.named_parameters()
            with torch.no_grad():
                for _, parameter in named:
                    parameter.add_(0.02)  # otherwise an adapter has no effect yet
            sft.accumulate(
                backbone, microbatches(ranks.share(examples), 1), 12.0, no_autocast, ranks
            )
            gradients = [parameter.grad for _, parameter in named]
            found.append([g.to_local() for g in gradients if isinstance(g, DTensor)])
            assert len(found[-1]) == len(named)
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        assert max(float(gradient.abs().max()) for gradient in found[0]) > 1e-4


def split_with_adapter(directory: Path, rank: int, world: int) -> None:
    """Check the refusal of an adapter in a split model."""
    decoder = toy_decoder()
    add_adapter(decoder, "policy", LoraConfig(rank=2), seed=1)
    ranks = arrange(Parallelism(tensor=2), all_different(rank, world))
    with refused(ConfigError, field="parallelism.tensor", reason="CONFLICT"):
        distribute(decoder, ranks)
