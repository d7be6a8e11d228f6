"""Checked access to model directories and to config.json.

Missing, mistyped or out-of-range fields raise an error by name.

Bounds exist because the file is untrusted: a billion layers would otherwise be built before any
weight is compared.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ConfigError, DetailedError, did_you_mean

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma3_text")  # supported by config.py
# Limit of widths, heads, vocabularies and positions; the largest known is 10 M positions (Llama 4).
MAX_SIZE = 1 << 24
MAX_LAYERS = 1 << 10
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(?:@[\w./-]{1,200})?")
IMPORTED = Path("models")  # folder of imports in the command of an error


class ModelConfigError(DetailedError, ValueError):
    """Error for a config.json with an invalid or unsupported field; the message names the field."""

    reason = "INVALID_MODEL_CONFIG"


@dataclass(frozen=True)
class Fields:
    """An object of config.json. Null fields count as missing, as in transformers."""

    values: Mapping[str, Any]

    def count(self, name: str, default: int | None = None, maximum: int = MAX_SIZE) -> int:
        """Return an integer from 1 to `maximum`; required without a default."""
        value = self._given(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
            raise ModelConfigError(
                f"{name}: {_short(value)} is not a whole number from 1 to {maximum}",
                field=name,
                reason="OUT_OF_RANGE",
                limit=f"1 to {maximum}",
            )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number above 0; required without a default."""
        value = self._given(name, default)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 < value < math.inf
        ):
            raise ModelConfigError(
                f"{name}: {_short(value)} is not a number above 0",
                field=name,
                reason="OUT_OF_RANGE",
                limit="above 0",
            )
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean field."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise ModelConfigError(
                f"{name}: {_short(value)} is not true or false",
                field=name,
                reason="WRONG_TYPE",
                limit="true, false",
            )
        return value

    def inside(self, name: str) -> Fields | None:
        """Return the object in a field, or None if missing or empty."""
        value = self.values.get(name)
        if not value:
            return None
        if not isinstance(value, Mapping):
            raise ModelConfigError(
                f"{name}: {_short(value)} is not an object", field=name, reason="WRONG_TYPE"
            )
        return Fields(value)

    def one_of(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """Return a string field restricted to `choices`."""
        value = self._given(name, default)
        if value not in choices:
            raise ModelConfigError(
                f"{name}: {_short(value)} is not one of {', '.join(choices)}",
                field=name,
                reason="UNKNOWN",
                limit=", ".join(choices),
            )
        return str(value)

    def refuse(self, *names: str) -> None:
        """Refuse fields of unsupported features if they are set."""
        for name in names:
            if self.values.get(name):
                raise ModelConfigError(
                    f"{name}: {_short(self.values[name])} is not supported",
                    field=name,
                    reason="UNSUPPORTED",
                )

    def _given(self, name: str, default: object) -> object:
        value = self.values.get(name)
        value = default if value is None else value
        if value is None:
            raise ModelConfigError(f"{name}: is missing", field=name, reason="MISSING")
        return value


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelConfigError: the file is missing, not JSON, or not an object; names the file.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelConfigError(missing(path), field=absent(path), reason="MISSING") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ModelConfigError(
            f"{path.name}: is not JSON", field=path.name, reason="MALFORMED"
        ) from error
    if not isinstance(found, dict):
        raise ModelConfigError(
            f"{path.name}: is not a JSON object", field=path.name, reason="WRONG_TYPE"
        )
    return found


def check_model_directory(path: Path, field: str, note: str = "") -> None:
    """Check that a model directory exists.

    Args:
        field: option or argument of the path.
        note: other places in which the model was looked for, after "does not exist".

    Raises:
        ConfigError: there is no directory; the text has the nearest model of the folder, or the
            command that imports a model of this name from the hub.
    """
    if path.is_dir():
        return
    models = [file.parent.name for file in path.parent.glob("*/config.json")]
    is_elsewhere = path.parent == Path() or not path.parent.is_dir()
    source = str(path) if is_elsewhere and HUB_ID.fullmatch(str(path)) else f"OWNER/{path.name}"
    hint = did_you_mean(path.name, models)
    if not hint and not path.exists() and HUB_ID.fullmatch(source):
        name = source.partition("/")[2].partition("@")[0].lower().lstrip("._-")
        hint = (
            f", and nothing is downloaded here; from the hub: thumbwheel models import {source} "
            f"--name {name} --to {IMPORTED}, then use {IMPORTED / name}"
        )
    found = "is a file" if path.exists() else f"does not exist{note}"
    raise ConfigError(
        f"{field}: {path} {found}; a model directory is expected{hint}",
        field=field,
        reason="MISSING",
        limit="a model directory",
    )


def missing(path: Path) -> str:
    """Return the error text for a missing file or directory."""
    return (
        f"{path.name}: is not in {path.parent}"
        if path.parent.is_dir()
        else f"{path.parent} does not exist"
    )


def absent(path: Path) -> str:
    """Return the error field for `missing`: the file name, or the missing directory."""
    return path.name if path.parent.is_dir() else str(path.parent)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
