"""Number of steps that fit into a given time.

Speed is measured once at the start and stored: a resumed run has the same length and the same
number type. The clock does not end a run: the learning rate of each step depends on the number
of steps, and a resumed run repeats the bits. Other load therefore makes a run longer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from durable_files.files import write_json
from training.errors import ConfigError
from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.optim.gradients import apply_gradients
from training.optim.optimizers import build_optimizer
from training.reporting.progress import StageDisplay
from training.reporting.units import duration
from training.runtime.context import Progress
from training.runtime.machine import bfloat16_is_faster, configure_device, to_device
from training.runtime.ranks import ALONE
from training.stages.pretrain import accumulate, open_data
from training.stages.pretrain_config import PretrainConfig

TIMED_SECONDS = 10.0  # maximum; on a very busy machine the first step ends it
SIMILAR = 1.1  # ratio of the two fastest steps; more steps would not change the result
# Fewer steps would not train anything, only because the machine was busy during the measurement.
FEWEST_STEPS = 20
TRAINING_SHARE = 0.85  # the rest is for evaluation, samples and checkpoints
COMPARED_SECONDS = 20.0  # of a run, with the plan; contains an evaluation in runs of minutes
CHANGED = 1.25  # ratio of the times of a step


@dataclass(frozen=True)
class Plan:
    """Content of plan.json.

    spent_seconds: time before the first step, for preparing texts and measuring the machine.
    """

    shape: str
    minutes: float
    steps: int
    dtype: str
    tokens_per_second: float
    spent_seconds: float = 0.0  # 0 in plans of older versions

    def step_seconds(self, tokens_per_step: int) -> float:
        """Return the planned time of a step, with its part of evaluations and checkpoints."""
        return tokens_per_step / (self.tokens_per_second * TRAINING_SHARE)

    def text(self, tokens_per_step: int) -> str:
        """Return a summary for the user."""
        seconds = self.steps * self.step_seconds(tokens_per_step)
        given = "1 minute is" if self.minutes == 1 else f"{self.minutes:g} minutes are"
        few = f", the minimum; {given} too short"
        # The other stages compute in float32 unless they are configured.
        narrow = " (faster here than float32; --set machine.dtype=float32 changes the number type)"
        return (
            f"planned: {self.steps:,} steps of {tokens_per_step:,} tokens in {duration(seconds)}, "
            f"at {self.tokens_per_second:,.0f} tokens a second in {self.dtype}"
            f"{narrow if self.dtype != 'float32' else ''}"
            f"{few if self.steps == FEWEST_STEPS else ''}"
        )


class SpeedWatcher:
    """Watcher of a planned run with a new estimate when a step takes another time.

    Args:
        step_seconds: planned time of a step.
    """

    def __init__(self, shown: StageDisplay, step_seconds: float) -> None:
        self._shown, self._step_seconds = shown, step_seconds
        self._since: tuple[int, float] | None = None  # step and time of the last estimate

    def begin(self, name: str) -> None:
        self._shown.begin(name)

    def move(self, name: str, progress: Progress) -> None:
        """Show the step; compare the mean time of the steps since the last estimate."""
        self._shown.move(name, progress)
        now = time.monotonic()
        step, began = self._since = self._since or (progress.step, now)
        if now - began < COMPARED_SECONDS or progress.step == progress.total_steps:
            return
        found, expected = (now - began) / (progress.step - step), self._step_seconds
        if max(found / expected, expected / found) > CHANGED:
            left = duration(found * (progress.total_steps - progress.step))
            self._shown.say(
                f"{name}: a step takes {duration(found)} instead of {duration(expected)}; "
                f"new estimate: {left} left"
            )
            self._since, self._step_seconds = (progress.step, now), found

    def end(self, name: str) -> None:
        self._shown.end(name)


def planned(
    path: Path,
    shape: str,
    minutes: float,
    config: PretrainConfig,
    began: float,
    say: Callable[[str], None],
    is_followed: bool = True,
) -> Plan:
    """Return the plan at `path`, or make it.

    Args:
        shape: description of the model.
        config: the config; its steps and dtype are ignored.
        began: start of the time limit, as time.monotonic().
        say: receives a message before the measurement.
        is_followed: a run has steps of the stored plan; otherwise a plan for another time is
            replaced.

    Raises:
        ConfigError: the stored plan is for another shape or another time.
    """
    if path.exists():
        plan = Plan(**json.loads(path.read_text()))
        found = {"shape": (plan.shape, shape), "minutes": (plan.minutes, minutes)}
        other = [(field, was, now) for field, (was, now) in found.items() if was != now]
        if not other:
            return plan
        if is_followed:
            field, was, now = other[0]
            raise ConfigError(
                f"{field}: the run was planned with {was}, not {now}; choose another name",
                field=field,
                reason="MISMATCH",
                limit=str(was),
            )
    say(
        f"measuring this machine for about {TIMED_SECONDS:g} seconds, to fit steps into "
        f"{minutes:g} minutes"
    )
    dtype = "bfloat16" if bfloat16_is_faster() else "float32"
    speed = tokens_per_second(replace(config, machine=replace(config.machine, dtype=dtype)))
    tokens_per_step = config.batch_rows * config.context_tokens
    spent = time.monotonic() - began
    steps = max(
        FEWEST_STEPS, round((minutes * 60 - spent) * TRAINING_SHARE * speed / tokens_per_step)
    )
    plan = Plan(shape, minutes, steps, dtype, speed, spent)
    write_json(path, asdict(plan))
    return plan


def tokens_per_second(config: PretrainConfig) -> float:
    """Return the speed of the config's steps, measured on a temporary model.

    The fastest step counts, as other load on the machine is temporary. Measuring ends when the two
    fastest steps are nearly equal, so that no slow step counts. One microbatch is measured and
    scaled to a step. The first step warms up and counts only if no time is left for another.
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
    seconds, warm, end = list[float](), False, time.perf_counter() + TIMED_SECONDS
    # Until the two fastest times are nearly equal.
    while len(seconds) < 2 or sorted(seconds)[1] > min(seconds) * SIMILAR:
        started = time.perf_counter()
        accumulate(decoder, data.train, rows, config.microbatch_rows, autocast, ALONE)
        learned = time.perf_counter()
        apply_gradients(optimizer, list(decoder.parameters()), 0.0, 1.0, ALONE)
        ended = time.perf_counter()
        if warm or ended > end:
            seconds.append((learned - started) * config.batch_rows / count + ended - learned)
        if ended > end:
            break
        warm = True
    return config.batch_rows * config.context_tokens / min(seconds)
