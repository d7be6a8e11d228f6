"""How many steps fit into the minutes that somebody has: timed once at the start, and written down,
so that a run that goes on after a kill has the same length and the same number type as before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.optim.adam import build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import ALONE
from training.stages.context import ConfigError
from training.stages.machine import bfloat16_is_faster, configure_device, to_device
from training.stages.pretrain import PretrainConfig, accumulate, open_data

TIMED_SECONDS = 10.0  # at most: the first step ends it too, where the machine is that busy
ALIKE = 1.1  # between the two fastest steps: another of them would tell nothing new
FEWEST_STEPS = (
    20  # with fewer nothing is learned, and a machine that was busy for a moment would be to blame
)
TRAINING_SHARE = 0.85  # the rest is for measuring, samples and checkpoints


@dataclass(frozen=True)
class Plan:
    """plan.json. spent_seconds: of the minutes, before the first step: to prepare the texts, and to
    time the machine.
    """

    recipe: str
    minutes: float
    steps: int
    dtype: str
    tokens_per_second: float
    spent_seconds: float = 0.0  # plans that were made before it was counted

    def text(self, tokens_per_step: int) -> str:
        """What somebody who waits wants to know."""
        few = f", the fewest that teach anything; {_minutes(self.minutes)} short for them"
        return (
            f"planned: {self.steps:,} steps of {tokens_per_step:,} tokens, at {self.tokens_per_second:,.0f} tokens a second"
            f" in {self.dtype}{few if self.steps == FEWEST_STEPS else ''}"
        )


def planned(
    path: Path,
    recipe: str,
    minutes: float,
    config: PretrainConfig,
    began: float,
    say: Callable[[str], None],
    is_followed: bool = True,
) -> Plan:
    """The plan at `path`; made where there is none.

    Args:
        config: whose steps and dtype do not count yet.
        began: when the minutes began, of time.monotonic().
        say: is told what is being timed.
        is_followed: whether steps of the plan there are kept; else one for other minutes takes its
            place.

    Raises:
        ConfigError: the plan there is for another recipe or other minutes.
    """
    if path.exists():
        plan = Plan(**json.loads(path.read_text()))
        if (plan.recipe, plan.minutes) == (recipe, minutes):
            return plan
        if is_followed:
            raise ConfigError(
                f"work: holds {plan.recipe} for {plan.minutes:g} minutes; take another folder",
                field="work",
                reason="MISMATCH",
                limit=f"{plan.recipe} for {plan.minutes:g} minutes",
            )
    say(
        f"timing this machine, about {TIMED_SECONDS:g} seconds: how many steps fit into {minutes:g} minutes?"
    )
    dtype = "bfloat16" if bfloat16_is_faster() else "float32"
    speed = tokens_per_second(replace(config, machine=replace(config.machine, dtype=dtype)))
    tokens_per_step = config.batch_rows * config.context_tokens
    spent = time.monotonic() - began
    steps = max(
        FEWEST_STEPS, round((minutes * 60 - spent) * TRAINING_SHARE * speed / tokens_per_step)
    )
    plan = Plan(recipe, minutes, steps, dtype, speed, spent)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(plan), indent=2) + "\n")
    partial.replace(path)
    return plan


def tokens_per_second(config: PretrainConfig) -> float:
    """Of the config's own steps, on a model that is thrown away: the fastest, since whatever else
    the machine does at this moment it will not do all the while, and so that it is not a slow one,
    until the two fastest are alike. One microbatch is timed for all of a step. The first step warms
    up, and counts only where there is time for no other.
    """
    autocast = configure_device(config.machine)
    data = open_data(config)
    with torch.device("cpu"):
        decoder = Decoder(parse_config(config.model_json))
    initialise(decoder, config.seed)
    to_device(decoder)
    optimizer = build_optimizer(decoder.named_parameters(), config.optimizer)
    count = min(config.microbatch_rows, config.batch_rows)
    rows = [row % len(data.train) for row in range(count)]
    taken, warm, over = list[float](), False, time.perf_counter() + TIMED_SECONDS
    while not _settled(taken):
        started = time.perf_counter()
        accumulate(decoder, data.train, rows, config.microbatch_rows, autocast, ALONE)
        learned = time.perf_counter()
        apply_gradients(optimizer, list(decoder.parameters()), 0.0, 1.0, ALONE)
        ended = time.perf_counter()
        if warm or ended > over:
            taken.append((learned - started) * config.batch_rows / count + ended - learned)
        if ended > over:
            break
        warm = True
    return config.batch_rows * config.context_tokens / min(taken)


def _settled(taken: Sequence[float]) -> bool:
    """Whether the two fastest of these seconds are alike."""
    fastest = sorted(taken)[:2]
    return len(fastest) == 2 and fastest[1] <= fastest[0] * ALIKE


def _minutes(count: float) -> str:
    return "1 minute is" if count == 1 else f"{count:g} minutes are"
