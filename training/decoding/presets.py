"""Sampling parameters per task, read from models/presets.json like in the generator.

Evaluation thus samples as serving does. Presets overridden by a deployment (the generator's setting
`presets`) are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.decoding.rows import DecodingError
from training.decoding.rules import Rules
from training.decoding.tasks import Task
from training.errors import details_of
from training.model.fields import ModelConfigError, read_object

PRESETS_FILE = Path(__file__).resolve().parents[2] / "models" / "presets.json"


def read_presets(file: Path = PRESETS_FILE) -> dict[Task, Rules]:
    """Return the sampling rules of each task.

    Raises:
        DecodingError: the file is missing or not JSON; a task or a value is missing, unknown, not a
        number or out of range.
    """
    try:
        tasks = read_object(file)
    except ModelConfigError as error:
        raise DecodingError(str(error), **details_of(error)) from error
    _require(tasks, "", [*Task])
    return {task: _rules(task, tasks[task]) for task in Task}


def _rules(task: Task, values: object) -> Rules:
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
        return Rules(**values)
    except DecodingError as error:
        raise DecodingError(f"{task}.{error}", **details_of(error, f"{task}.")) from error


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
