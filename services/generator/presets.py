"""How an answer is sampled: one preset a task, overridden by the caller within the limits of chat.v1.

task                temperature  top_p
code                0.1          0.9    one right answer: nearly greedy
question answering  0.3          0.9    facts, worded freely
chat                0.9          0.95
creative            0.95         0.98   the tail of the distribution is where the surprises are
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from services.chassis.errors import InvalidArgumentError

MAX_TEMPERATURE = 2.0
MAX_TOKENS = 4096
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
# Model servers refuse or divide by smaller ones: below this the most likely token is taken.
GREEDY_BELOW = 0.01


class Task(StrEnum):
    """What kind of answer is wanted."""

    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"


@dataclass(frozen=True)
class Preset:
    """Softmax temperature and nucleus mass of a task."""

    temperature: float
    top_p: float


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. `seed` None lets the model server choose. `tells_tokens`: it is asked what it samples, too."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tells_tokens: bool = False


@dataclass(frozen=True)
class Overrides:
    """What the caller asks for; None leaves the preset."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    seed: int | None = None


NO_OVERRIDES = Overrides()

# Temperatures: issue 3 and chat.v1's Task.
PRESETS = {
    Task.CODE: Preset(0.1, 0.9),
    Task.QUESTION_ANSWERING: Preset(0.3, 0.9),
    Task.CHAT: Preset(0.9, 0.95),
    Task.CREATIVE: Preset(0.95, 0.98),
}


def sampling_for(task: Task, overrides: Overrides, reply_tokens: int) -> Sampling:
    """The preset of a task with the caller's overrides; `reply_tokens` is the longest answer of a caller who says nothing.

    Raises:
        InvalidArgumentError: an override is out of its range; names field and limit.
    """
    preset = PRESETS[task]
    sampling = Sampling(preset.temperature, preset.top_p, reply_tokens, tuple(overrides.stop), overrides.seed)
    if overrides.temperature is not None:
        if not 0 <= overrides.temperature <= MAX_TEMPERATURE:
            raise _wrong("temperature", f"0 to {MAX_TEMPERATURE:g}")
        greedy = overrides.temperature < GREEDY_BELOW
        sampling = replace(sampling, temperature=0.0 if greedy else _plain(overrides.temperature))
    if overrides.top_p is not None:
        if not 0 < overrides.top_p <= 1:
            raise _wrong("top_p", "above 0 to 1")
        sampling = replace(sampling, top_p=_plain(overrides.top_p))
    if overrides.max_tokens is not None:
        if not 1 <= overrides.max_tokens <= MAX_TOKENS:
            raise _wrong("max_tokens", f"1 to {MAX_TOKENS:,}")
        sampling = replace(sampling, max_tokens=overrides.max_tokens)
    _check_stop(overrides.stop)
    return sampling


def _check_stop(stop: Sequence[str]) -> None:
    if len(stop) > MAX_STOPS:
        raise _wrong("stop", f"at most {MAX_STOPS}")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stop):
        raise _wrong("stop", f"1 to {MAX_STOP_CHARACTERS} characters each")


def _plain(value: float) -> float:
    """0.1 travels as a 32-bit 0.10000000149: seven digits are what was meant."""
    return value if value == 0 else round(value, 6 - math.floor(math.log10(value)))


def _wrong(name: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name} must be {limit}", field=f"sampling.{name}", limit=limit)
