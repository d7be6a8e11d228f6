"""Sampling parameters of an answer: the preset of its task, with overrides of the caller.

The presets are in models/presets.json, which training reads too. Source of the figures: the
project's acceptance cases, "code P .1 low temperature; factual QA P .3-.5 low; conversation P .9
medium; creative P .95 high", where P is the nucleus mass. The limits of overrides are those of
chat.v1.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.chassis.errors import DetailedError
from services.contracts.chat import SamplingOverrides, Task
from services.contracts.limits import (
    MAX_REPLY_TOKENS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    field_error,
)

PRESETS_FILE = Path(__file__).resolve().parents[3] / "models" / "presets.json"
# Below this value decoding is greedy, because model servers reject smaller temperatures or divide
# by them.
GREEDY_BELOW = 0.01
# Tasks with a preset.
TASKS = tuple(task for task in Task if task is not Task.UNSPECIFIED)


class PresetError(DetailedError):
    """The presets are invalid.

    `field` is the file or its dotted field ("code.top_p"), `limit` the allowed values.
    """

    reason = "INVALID_PRESET"


@dataclass(frozen=True)
class Preset:
    """Sampling parameters of a task.

    Args:
        temperature: of the softmax, 0 to MAX_TEMPERATURE.
        top_p: nucleus mass, above 0 to 1 (Holtzman et al., arXiv 1904.09751).

    Raises:
        PresetError: a value is out of its range; names field and limit.
    """

    temperature: float
    top_p: float

    def __post_init__(self) -> None:
        for name, fits, limit in (
            ("temperature", 0 <= self.temperature <= MAX_TEMPERATURE, f"0 to {MAX_TEMPERATURE:g}"),
            ("top_p", 0 < self.top_p <= 1, "above 0 to 1"),
        ):
            if not fits:
                raise PresetError(
                    f"{name} must be {limit}", field=name, reason="OUT_OF_RANGE", limit=limit
                )


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one answer.

    Args:
        temperature: 0 selects greedy decoding.
        top_p: nucleus mass.
        max_tokens: limit of generated tokens.
        stop: stop strings.
        seed: None lets the model server choose.
        return_tokens: request token ids and log-probs from the model server.
    """

    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None
    return_tokens: bool = False


def read_presets(file: Path = PRESETS_FILE) -> dict[Task, Preset]:
    """Return the preset of each task. Blocking.

    Raises:
        PresetError: the file is missing or is not JSON; a task or a value is missing, unknown, not
            a number or out of its range.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = "MISSING" if isinstance(error, OSError) else "MALFORMED"
        raise PresetError(
            f"{file} is not a readable JSON file", field=file.name, reason=reason
        ) from error
    tasks = _object(content, file.name)
    _require(tasks, "", TASKS)
    presets: dict[Task, Preset] = {}
    for task in TASKS:
        values = _object(tasks[task], task)
        _require(values, f"{task}.", ["temperature", "top_p"])
        for name, value in values.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                field = f"{task}.{name}"
                raise PresetError(
                    f"{field} must be a number", field=field, reason="WRONG_TYPE", limit="a number"
                )
        try:
            presets[task] = Preset(**values)
        except PresetError as error:
            field = f"{task}.{error.field}"
            raise PresetError(
                f"{task}.{error.text}", field=field, reason=error.reason, limit=error.limit
            ) from error
    return presets


def _object(content: object, field: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise PresetError(
            f"{field} must be an object", field=field, reason="WRONG_TYPE", limit="an object"
        )
    return content


def _require(values: dict[str, Any], prefix: str, names: Sequence[str]) -> None:
    """Raise an error for missing and for unknown fields."""
    known = ", ".join(names)
    for name in sorted({*names} ^ {*values}):
        field, reason = f"{prefix}{name}", "UNKNOWN" if name in values else "MISSING"
        raise PresetError(
            f"{field} is {reason.lower()}; fields: {known}", field=field, reason=reason, limit=known
        )


def sampling_for(preset: Preset, overrides: SamplingOverrides, reply_tokens: int) -> Sampling:
    """Return a preset with the caller's overrides.

    Args:
        preset: preset of the task.
        overrides: parameters of the caller.
        reply_tokens: token limit if the caller sets none.

    Raises:
        InvalidArgumentError: an override is out of its range; names field and limit.
    """
    given = {"temperature": overrides.temperature, "top_p": overrides.top_p}
    try:
        chosen = replace(
            preset, **{name: value for name, value in given.items() if value is not None}
        )
    except PresetError as error:
        raise field_error(f"sampling.{error.field}", error.limit) from error
    max_tokens = reply_tokens if overrides.max_tokens is None else overrides.max_tokens
    if not 1 <= max_tokens <= MAX_REPLY_TOKENS:
        raise field_error("sampling.max_tokens", f"1 to {MAX_REPLY_TOKENS:,}")
    if len(overrides.stop) > MAX_STOPS:
        raise field_error("sampling.stop", f"at most {MAX_STOPS}")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in overrides.stop):
        raise field_error("sampling.stop", f"1 to {MAX_STOP_CHARACTERS} characters each")
    temperature = 0.0 if chosen.temperature < GREEDY_BELOW else _plain(chosen.temperature)
    return Sampling(temperature, _plain(chosen.top_p), max_tokens, overrides.stop, overrides.seed)


def _plain(value: float) -> float:
    """Round to seven digits, since 0.1 arrives as the 32-bit value 0.10000000149."""
    return value if value == 0 else round(value, 6 - math.floor(math.log10(value)))
