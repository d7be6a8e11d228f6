"""Checked reading of config.json: a field that is missing, of another kind or out of range raises
by its name.

Bounds are there because the file is foreign: a billion layers would be built before any weight is
compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DetailedError

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma3_text")  # that config.py builds
MAX_SIZE = (
    1 << 24
)  # of widths, heads, vocabularies and positions: the largest known is 10 M positions (Llama 4)
MAX_LAYERS = 1 << 10


class ModelConfigError(DetailedError, ValueError):
    """config.json describes something that this library does not build; the text names the field."""

    reason = "INVALID_MODEL_CONFIG"


@dataclass(frozen=True)
class Fields:
    """An object of config.json. Fields that are null count as missing, as they do for transformers."""

    values: Mapping[str, Any]

    def count(self, name: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A whole number from 1 to `most`; required where there is no default."""
        value = self._given(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelConfigError(
                f"{name}: {_short(value)} is not a whole number from 1 to {most}",
                field=name,
                reason="OUT_OF_RANGE",
                limit=f"1 to {most}",
            )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0; required where there is no default."""
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
        """true or false."""
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
        """The object in a field; None where it is missing or empty."""
        value = self.values.get(name)
        if not value:
            return None
        if not isinstance(value, Mapping):
            raise ModelConfigError(
                f"{name}: {_short(value)} is not an object", field=name, reason="WRONG_TYPE"
            )
        return Fields(value)

    def one_of(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of these words."""
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
        """Fields that ask for what is not built, wherever they are set."""
        for name in names:
            if self.values.get(name):
                raise ModelConfigError(
                    f"{name}: {_short(self.values[name])} is not built",
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
    """A JSON file that holds an object.

    Raises:
        ModelConfigError: there is no such file, it is no JSON, or it holds something else; names
            the file.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelConfigError(missing(path), field=absent(path), reason="MISSING") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ModelConfigError(
            f"{path.name}: is no JSON", field=path.name, reason="MALFORMED"
        ) from error
    if not isinstance(found, dict):
        raise ModelConfigError(
            f"{path.name}: is not a JSON object", field=path.name, reason="WRONG_TYPE"
        )
    return found


def missing(path: Path) -> str:
    """What to say of a file of a directory that is not there, or of the directory."""
    return (
        f"{path.name}: is not in {path.parent}"
        if path.parent.is_dir()
        else f"{path.parent} is not there"
    )


def absent(path: Path) -> str:
    """The field of an error with the text of `missing`: the file's name, or the directory where
    that is not there.
    """
    return path.name if path.parent.is_dir() else str(path.parent)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
