"""Commands that end with an error: exit status, message and exception."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest

from tests.support.errors import refused
from training.__main__ import main
from training.errors import ConfigError, DetailedError
from training.runs import FAILED


def refused_command(
    arguments: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    kind: type[DetailedError] = ConfigError,
    *,
    field: str | None = None,
    reason: str | None = None,
    limit: str | None = None,
) -> tuple[str, str]:
    """Run a command that must fail with status 1 and one line on standard error.

    Args:
        field, reason, limit: as in `refused`.

    Returns:
        standard output, and the line, which is the text of an error of `kind`.
    """
    raised: list[Exception] = []
    parse = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *given: Any) -> argparse.Namespace:
        options: argparse.Namespace = parse(parser, *given)
        options.command = _recorded(options.command, raised)
        return options

    capsys.readouterr()
    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        assert main(arguments) == 1
    told = capsys.readouterr()
    (error,) = raised
    with refused(kind, field=field, reason=reason, limit=limit):
        raise error
    assert told.err == f"{FAILED}: {error}\n"
    assert len(told.err.splitlines()) == 1
    return told.out, told.err


def _recorded(
    command: Callable[[argparse.Namespace], int], raised: list[Exception]
) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        try:
            return command(options)
        except Exception as error:
            raised.append(error)
            raise

    return run
