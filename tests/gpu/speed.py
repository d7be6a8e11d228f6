"""Tokens per second, MFU and memory of SFT, reward model, PPO and GRPO on one device.

The model has new weights and its texts are random bytes: neither changes the work of a step, and
responses of new weights rarely end by themselves, so the number of sampled tokens is known. A step
is measured between two reports of progress, without evaluation.
"""

from __future__ import annotations

import gc
import random
import statistics
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tests.training.toys import write_lines
from training.artifacts.manifest import write_manifest
from training.data.chat import Chat, Message, load_chat
from training.model.checkpoint import save_decoder
from training.model.config import ModelConfig, parse_config
from training.model.lora import LoraConfig
from training.model.transformer import Decoder, initialise
from training.parallelism.layout import Parallelism
from training.planning.accelerators import GIB, TERA, Accelerator
from training.planning.layout import Layout
from training.planning.plan import PlannedStage, plan_stage
from training.planning.timing import model_operations
from training.planning.work import DataSize, PlannedConfig, work_of
from training.rl.scores import Answer
from training.runtime.context import Lineage, Machine, Progress, RunContext
from training.runtime.machine import peak_memory_bytes, use_device
from training.runtime.training_state import DirectoryCheckpoints
from training.serving.rollout_server import RolloutServer
from training.stages import grpo, ppo, reward_model, sft
from training.stages.grpo import GrpoConfig
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig
from training.tokenization.byte_pairs import MIN_VOCABULARY, train_tokenizer

NEVER = 10**9  # steps until a checkpoint; one is written after the last step
WARM_UP = 1  # the first step loads kernels and fills the allocator
GROUP = 4  # responses to a prompt in GRPO


@dataclass(frozen=True)
class Load:
    """Size of the measured steps.

    Attributes:
        shape: config.json of the model.
        rows: sequences per step; prompts and responses have the same number of tokens in each.
        microbatch_rows: sequences per forward pass; at least 4, a multiple of 4.
        steps: measured steps, after WARM_UP.
    """

    shape: Mapping[str, object]
    prompt_tokens: int = 256
    response_tokens: int = 256
    rows: int = 16
    microbatch_rows: int = 4
    steps: int = 6
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=16, alpha=32.0))

    @property
    def model(self) -> ModelConfig:
        return parse_config(dict(self.shape))


@dataclass(frozen=True)
class Speed:
    """Speed of a stage on one device.

    Attributes:
        tokens_per_second: trained tokens (prompt and response), each counted once.
        mfu: share of the bf16 peak; None if the peak of the device is unknown.
        memory_gib: peak of the device's memory, or of the process on a CPU.
    """

    stage: str
    dtype: str
    tokens_per_second: float
    mfu: float | None
    memory_gib: float


Runner = Callable[[Any, RunContext], object]


def stages(
    directory: Path, load: Load, machine: Machine, server: RolloutServer | None = None
) -> dict[str, tuple[Runner, Any]]:
    """Return function and config of each stage; data and models are in the directory.

    SFT trains all weights. The others train adapters, so that the policy, its critic, its
    reference and the reward model share one decoder.

    Args:
        server: samples for a second run of PPO; None: no such run.
    """
    total = load.prompt_tokens + load.response_tokens
    count = WARM_UP + load.steps
    common: dict[str, Any] = {"model_directory": directory / "model", "machine": machine}
    fixed = common | {"checkpoint_every_steps": NEVER}
    policy = common | {
        "data_path": directory / "prompts.jsonl",
        "updates": count,
        "minibatch_rows": load.microbatch_rows,
        "epochs_per_update": 1,
        "max_prompt_tokens": load.prompt_tokens,
        "max_response_tokens": load.response_tokens,
        "length_floor_fraction": 0.0,
        "kl_ceiling_nats": None,
        "checkpoint_every_updates": NEVER,
        "lora": load.lora,
    }

    def made(name: str) -> dict[str, Any]:
        return {"output_directory": directory / name, "lineage": Lineage(name)}

    of_sft = SftConfig(
        data_path=directory / "sft.jsonl",
        batch_rows=load.rows,
        microbatch_rows=load.microbatch_rows,
        max_tokens=total,
        held_out_fraction=0.0,
        **made("sft"),
        **fixed,
    )
    of_reward = RewardModelConfig(
        data_path=directory / "pairs.jsonl",
        batch_pairs=load.rows // 2,
        microbatch_pairs=load.microbatch_rows // 2,
        max_tokens=total,
        # At least one prompt, which is not measured.
        held_out_fraction=1 / load.rows,
        lora=load.lora,
        **made("reward_model"),
        **fixed,
    )
    of_ppo = PpoConfig(
        reward_model_directory=directory / "reward_model",
        prompts_per_update=load.rows,
        **made("ppo"),
        **policy,
    )
    of_grpo = GrpoConfig(
        reward_model_directory=None,
        prompts_per_update=load.rows // GROUP,
        samples_per_prompt=GROUP,
        **made("grpo"),
        **policy,
    )
    found: dict[str, tuple[Runner, Any]] = {
        "sft": (sft.run, of_sft),
        "reward_model": (reward_model.run, of_reward),
        "ppo": (ppo.run, of_ppo),
        "grpo": (lambda config, context: grpo.run(config, context, by_length), of_grpo),
    }
    if server is not None:
        changes = {"rollout_server": server, **made("ppo-served")}
        found[f"ppo, sampled by {server.engine}"] = (ppo.run, replace(of_ppo, **changes))
    return found


def by_length(answers: Sequence[Answer]) -> list[float]:
    """Score answers so that those of a group differ."""
    return [float(len(answer.text)) for answer in answers]


def write_inputs(directory: Path, load: Load) -> None:
    """Write a new model with a tokenizer of bytes, and rows with the tokens of the load."""
    train_tokenizer([string.ascii_lowercase], MIN_VOCABULARY, directory / "model")
    decoder = Decoder(load.model)
    initialise(decoder, 1)
    save_decoder(decoder, directory / "model")
    write_manifest(directory / "model", kind="model", version="model")
    chat, dice = load_chat(directory / "model"), random.Random(1)
    count = load.rows * (WARM_UP + load.steps)

    def text(tokens: int) -> str:
        return "".join(dice.choices(string.ascii_lowercase, k=tokens))

    prompt = load.prompt_tokens - len(chat.prompt_ids([Message("user", "")]))
    response = load.response_tokens - len(chat.response_ids(""))
    asked = [[{"role": "user", "content": text(prompt)}] for _ in range(count)]
    write_rows = {
        "sft": [{"messages": each, "response": text(response)} for each in asked],
        "pairs": [
            {
                "messages": each,
                "chosen": text(response),
                "rejected": text(response),
                "prompt_id": str(number),
            }
            for number, each in enumerate(asked[: count // 2])
        ],
        "prompts": [{"messages": each} for each in asked],
    }
    for name, rows in write_rows.items():
        write_lines(directory / f"{name}.jsonl", rows)
    check_tokens(chat, asked[0][0]["content"], load)


def check_tokens(chat: Chat, content: str, load: Load) -> None:
    """Check that a prompt has the tokens that the figures assume."""
    found = len(chat.prompt_ids([Message("user", content)]))
    assert found == load.prompt_tokens, (found, load.prompt_tokens)


class Clock:
    """Times of the reports of progress, when the device has finished the step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, progress: Progress) -> None:
        if torch.get_default_device().type != "cpu":
            torch.accelerator.synchronize()
        self.times.append(time.perf_counter())

    @property
    def step_seconds(self) -> float:
        """Return the median, because the last step includes a checkpoint."""
        steps = [later - one for one, later in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps)


def measure(
    directory: Path,
    load: Load,
    machine: Machine,
    accelerator: Accelerator | None,
    server: RolloutServer | None = None,
) -> Iterator[Speed]:
    """Run all stages and yield their speeds.

    Args:
        accelerator: figures of the device; None: unknown, so without MFU.
        server: see `stages`; it starts in the first update, which is not measured.

    Raises:
        ConfigError: a stage does not fit into the memory of the accelerator.
    """
    size = DataSize(
        rows=load.rows * (WARM_UP + load.steps),
        prompt_tokens=load.prompt_tokens,
        response_tokens=load.response_tokens,
    )
    found = stages(directory, load, machine, server)
    if accelerator is not None:
        for name, (_, config) in found.items():
            plan_stage(PlannedStage(name, config, size), load.model, 1, accelerator)
    write_inputs(directory, load)
    for name, (run, config) in found.items():
        clock = Clock()
        _release_memory(machine)
        run(config, RunContext(DirectoryCheckpoints(directory / "runs" / name), clock))
        yield speed_of(name, config, size, load.model, clock.step_seconds, accelerator)
    use_device("cpu")


def speed_of(
    name: str,
    config: PlannedConfig,
    size: DataSize,
    model: ModelConfig,
    seconds: float,
    accelerator: Accelerator | None,
) -> Speed:
    """Return the figures of a stage whose step takes `seconds`."""
    work = work_of(config, size, model, Layout(1, Parallelism()))
    peak = accelerator.bf16_teraflops * TERA if accelerator else None
    return Speed(
        stage=name,
        dtype=config.machine.dtype,
        tokens_per_second=work.tokens / seconds,
        mfu=model_operations(work) / seconds / peak if peak else None,
        memory_gib=peak_memory_bytes() / GIB,
    )


def _release_memory(machine: Machine) -> None:
    """Free what the previous stage has left, and count the peak of memory from here."""
    gc.collect()
    device = use_device(machine.device)
    if device.type != "cpu":
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()
