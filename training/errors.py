"""Base classes of errors that a command reports in a single line, without a traceback.

They mean that the input is wrong, not the code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypedDict


class DetailedError(Exception):
    """An error with its cause in attributes, so that callers need not parse the text.

    Args:
        text: message for a person, with the field, the value and the allowed values.
        field: the wrong input, as the caller names it: a dotted config field
            ("optimizer.learning_rate"), a flag, a JSON key, a file, a tensor. "" if no single field
            is wrong.
        reason: stable UPPER_SNAKE_CASE code of the error; defaults to the code of the class.
        limit: allowed values ("at least 1", "cpu, cuda"); "" if there is no limit.
    """

    reason = "INVALID"

    def __init__(self, text: str, *, field: str = "", reason: str = "", limit: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.field = field
        self.reason = reason or type(self).reason
        self.limit = limit


class Details(TypedDict):
    """Keyword arguments of DetailedError."""

    field: str
    reason: str
    limit: str


def details_of(error: BaseException, prefix: str = "") -> Details:
    """Return the attributes of an error as keyword arguments for the error that replaces it.

    Args:
        error: an error of another class gives empty attributes, so the new class keeps its own
            reason.
        prefix: prefix for the field, such as "optimizer.".
    """
    # Other exceptions have unrelated attributes, such as UnicodeDecodeError.reason.
    if not isinstance(error, DetailedError):
        return {"field": prefix.rstrip("."), "reason": "", "limit": ""}
    return {
        "field": f"{prefix}{error.field}".rstrip("."),
        "reason": error.reason,
        "limit": error.limit,
    }


class ConfigError(DetailedError, ValueError):
    """A setting, or a combination of settings, is not possible."""

    reason = "INVALID_CONFIG"


def unknown_choice(field: str, value: object, known: Iterable[str], note: str = "") -> ConfigError:
    """Return the error for a value that is not one of the known ones, with the closest of them.

    Args:
        note: further values that are allowed, or other advice.
    """
    allowed = ", ".join(known)
    return ConfigError(
        f"{field}: {value!r} is not one of {allowed}{note and f', {note}'}"
        f"{did_you_mean(str(value), allowed.split(', '))}",
        field=field,
        reason="UNKNOWN",
        limit=allowed,
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the first name that continues the given one, or "".

    Without such a name, X is the one that is spelled most alike. Case and punctuation do not count.
    """
    by_letters: dict[str, str] = {}
    for name in known:
        by_letters.setdefault(_letters(name), name)
    letters = _letters(given)
    longer = [name for name in by_letters if len(letters) > 1 and name.startswith(letters)]
    found = longer or get_close_matches(letters, by_letters, n=1)
    return f"; did you mean {by_letters[found[0]]}?" if found else ""


class Renamed(argparse.Action):
    """Earlier spelling of an option: an error that names the present one, in `const`."""

    def __call__(self, parser: argparse.ArgumentParser, *called: object) -> None:
        parser.error(f"{called[-1]} is now {self.const}")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


class UnavailableError(DetailedError, RuntimeError):
    """A resource outside the process is missing or unusable."""

    reason = "UNAVAILABLE"


# Errors whose text a command prints; others are errors of the code.
REPORTED_ERRORS = (ValueError, UnavailableError)
