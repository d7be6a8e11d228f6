"""Base classes of the errors that a command reports in one line, without a traceback: the input is
wrong, not the code.
"""

from __future__ import annotations

from typing import TypedDict


class DetailedError(Exception):
    """An error whose cause can be read from its attributes, without parsing its text.

    Args:
        text: the message for a person; names the field, the value and what is allowed.
        field: what is at fault, as the caller names it: a dotted config field
            ("optimizer.learning_rate"), a flag, a JSON key, a file, a tensor. "" where no single
            field is at fault.
        reason: a stable UPPER_SNAKE_CASE code of this kind of fault; the class's own code if it is
            not given.
        limit: what would be allowed ("at least 1", "cpu, cuda"); "" if there is no limit to tell.
    """

    reason = "INVALID"

    def __init__(self, text: str, *, field: str = "", reason: str = "", limit: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.field = field
        self.reason = reason or type(self).reason
        self.limit = limit


class Details(TypedDict):
    """The keywords of a DetailedError."""

    field: str
    reason: str
    limit: str


def details_of(error: BaseException, prefix: str = "") -> Details:
    """Return the attributes of an error, as keywords for the error that it is translated into.

    Args:
        error: an error without such attributes gives empty ones, so that the class's own reason
            stands.
        prefix: of the field, as "optimizer.".
    """
    if not isinstance(
        error, DetailedError
    ):  # others have a `reason` of their own kind, as UnicodeDecodeError
        return {"field": prefix.rstrip("."), "reason": "", "limit": ""}
    return {
        "field": f"{prefix}{error.field}".rstrip("."),
        "reason": error.reason,
        "limit": error.limit,
    }


class ConfigError(DetailedError, ValueError):
    """A setting, or a combination of settings, that cannot run."""

    reason = "INVALID_CONFIG"


class UnavailableError(DetailedError, RuntimeError):
    """Something outside the process that a command needs is missing, or is not what it should be."""

    reason = "UNAVAILABLE"
