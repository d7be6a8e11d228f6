"""Settings of decoding, without an import of torch: rules of sampling, beams, stops and limits.

Each task has its own sampling preset (models/presets.json).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from training.errors import DetailedError, details_of
from training.model.fields import ModelConfigError, read_object

MAX_TOKENS = 4096  # the same limit as in services/contracts/limits.py
DEFAULT_MAX_TOKENS = 256
MAX_TEMPERATURE = 2.0  # the same limit as in services/contracts/limits.py
GREEDY_BELOW = 0.01  # as the generator; smaller divisors are numerically useless
MAX_STOPS = 4  # both limits as in services/contracts/limits.py
MAX_STOP_CHARACTERS = 64
PRESETS_FILE = Path(__file__).resolve().parents[2] / "models" / "presets.json"


class DecodingError(DetailedError, ValueError):
    """Error for a setting out of range or an unusable prompt; names the field and its limit."""

    reason = "INVALID_DECODING"


class Task(StrEnum):
    """Kind of the requested answer."""

    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"


@dataclass(frozen=True)
class Rules:
    """Sampling parameters with defaults that change nothing.

    With temperature 0 (greedy) only the repetition penalty has an effect.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check_range(
            "temperature",
            self.temperature,
            0 <= self.temperature <= MAX_TEMPERATURE,
            f"0 to {MAX_TEMPERATURE:g}",
        )
        _check_range("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 to 1")
        _check_range("top_k", self.top_k, self.top_k >= 0, "at least 0", ", which is all")
        _check_range("min_p", self.min_p, 0 <= self.min_p < 1, "0 to below 1")
        penalty = self.repetition_penalty
        _check_range(
            "repetition_penalty", penalty, 0 < penalty < math.inf, "above 0", "; 1 changes nothing"
        )

    @property
    def greedy(self) -> bool:
        """True if the likeliest token is selected without sampling."""
        return self.temperature < GREEDY_BELOW


class EarlyStopping(StrEnum):
    """Condition for the end of a prompt's search, once as many continuations are finished as beams.

    Comments name the equivalent `early_stopping` of transformers.
    """

    AT_ONCE = "at_once"  # True
    # False: the best running beam, finished now, would not be among the best.
    UNLIKELY = "unlikely"
    # "never": the best running beam cannot be among the best at any length, if longer is better.
    HOPELESS = "hopeless"


@dataclass(frozen=True)
class BeamConfig:
    """Settings of a beam search.

    A finished continuation scores log p / tokens ** length_penalty; values above 0 favour long ones
    (Wu et al., arXiv 1609.08144).
    """

    count: int = 4
    length_penalty: float = 1.0
    stopping: EarlyStopping = EarlyStopping.UNLIKELY
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DecodingError(
                f"beams: {self.count} is below 1",
                field="beams",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )
        if not math.isfinite(self.length_penalty):
            raise DecodingError(
                f"length_penalty: {self.length_penalty:g} is not finite",
                field="length_penalty",
                reason="NOT_FINITE",
            )
        penalty = self.repetition_penalty
        _check_range("repetition_penalty", penalty, 0 < penalty < math.inf, "above 0")


def check_max_tokens(max_tokens: int | None) -> None:
    """Check the limit of an answer; None is the default.

    Raises:
        DecodingError: the limit is out of range.
    """
    if max_tokens is not None and not 1 <= max_tokens <= MAX_TOKENS:
        raise DecodingError(
            f"max_tokens: {max_tokens} is not 1 to {MAX_TOKENS}",
            field="max_tokens",
            reason="OUT_OF_RANGE",
            limit=f"1 to {MAX_TOKENS}",
        )


def check_stops(stops: Sequence[str]) -> None:
    """Check the number and the lengths of stop strings.

    Raises:
        DecodingError: there are too many, or a string is empty or too long.
    """
    if len(stops) > MAX_STOPS:
        raise DecodingError(
            f"stop: {len(stops)} texts, at most {MAX_STOPS}",
            field="stop",
            reason="TOO_LARGE",
            limit=f"at most {MAX_STOPS}",
        )
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise DecodingError(
                f"stop: a text of {len(stop)} characters, 1 to {MAX_STOP_CHARACTERS} each",
                field="stop",
                reason="OUT_OF_RANGE",
                limit=f"1 to {MAX_STOP_CHARACTERS}",
            )


def read_presets(file: Path = PRESETS_FILE) -> dict[Task, Rules]:
    """Return the sampling rules of each task, read from models/presets.json like in the generator.

    Evaluation thus samples as serving does. Presets overridden by a deployment (the generator's
    setting `presets`) are not known here.

    Raises:
        DecodingError: the file is missing or not JSON; a task or a value is missing, unknown, not a
        number or out of range.
    """
    try:
        tasks = read_object(file)
    except ModelConfigError as error:
        raise DecodingError(str(error), **details_of(error)) from error
    _require(tasks, "", [*Task])
    presets: dict[Task, Rules] = {}
    for task in Task:
        values = tasks[task]
        if not isinstance(values, dict):
            raise DecodingError(
                f"{task}: is not an object", field=task, reason="WRONG_TYPE", limit="an object"
            )
        _require(values, f"{task}.", ["temperature", "top_p"])
        for name, value in values.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                field = f"{task}.{name}"
                raise DecodingError(
                    f"{field}: is not a number", field=field, reason="WRONG_TYPE", limit="a number"
                )
        try:
            presets[task] = Rules(**values)
        except DecodingError as error:
            raise DecodingError(f"{task}.{error}", **details_of(error, f"{task}.")) from error
    return presets


def _require(values: dict[str, Any], prefix: str, names: Sequence[str]) -> None:
    """Check that the fields are exactly `names`."""
    known = ", ".join(names)
    for name in sorted({*names} ^ {*values}):
        field, reason = f"{prefix}{name}", "UNKNOWN" if name in values else "MISSING"
        raise DecodingError(
            f"{field}: is {reason.lower()}; fields: {known}",
            field=field,
            reason=reason,
            limit=known,
        )


def _check_range(name: str, value: float, holds: bool, limit: str, note: str = "") -> None:
    if not holds:
        raise DecodingError(
            f"{name}: {value:g} is not {limit}{note}",
            field=name,
            reason="OUT_OF_RANGE",
            limit=limit,
        )
