"""What a person is told in a line, without a traceback, beside a ValueError: what is wrong lies in what was asked for, not in the code."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting, or a combination of them, that cannot run; the text names the field and the limit."""


class UnavailableError(RuntimeError):
    """Something outside that a command needs cannot be had, or is not what it should be; the text names it."""
