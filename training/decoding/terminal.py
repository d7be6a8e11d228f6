"""Input and output of `thumbwheel train chat`, on a terminal or through a pipe.

On a terminal: prompts, line editing by the readline of Python, and Ctrl-C to end an answer.
Through a pipe: a question per line, answers alone on standard output, notes on standard error.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from training.errors import ConfigError

PROMPT, CONTINUED = "> ", "… "
DIM, PLAIN = "\033[2m", "\033[0m"
# Control characters but tab and line feed: a model may write them, and a terminal obeys them.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Standard input, output and error of a chat; `is_interactive`: a person types."""

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._is_styled = self.is_interactive and "NO_COLOR" not in os.environ
        if self.is_interactive:
            with suppress(ImportError):
                import readline  # noqa: F401  (input() has arrow keys and a history with it)

    def read(self) -> str | None:
        """Return the next input; None at the end. A backslash at its end continues a line.

        Raises:
            ConfigError: the input is not UTF-8.
        """
        lines: list[str] = []
        try:
            while (line := self._line(CONTINUED if lines else PROMPT)) is not None:
                line.encode()  # an undecodable byte may have become a surrogate
                if not line.endswith("\\"):
                    return "\n".join([*lines, line])
                lines.append(line[:-1])
        except UnicodeError as error:
            raise ConfigError(
                "input: is not UTF-8", field="input", reason="NOT_UTF8", limit="UTF-8"
            ) from error
        return "\n".join(lines) if lines else None

    def write(self, text: str) -> None:
        """Write a piece of an answer at once."""
        if self.is_interactive:
            text = CONTROL_CHARACTERS.sub("\ufffd", text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Write a line for a person, apart from the answers."""
        if self.is_interactive:
            self.write_dim(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def write_dim(self, text: str) -> None:
        """Write a line in dim text; on a terminal only."""
        if self.is_interactive:
            print(f"{DIM}{text}{PLAIN}" if self._is_styled else text, flush=True)

    @contextmanager
    def stoppable(self) -> Iterator[Callable[[], bool]]:
        """Yield a test for Ctrl-C during the block.

        A second Ctrl-C raises KeyboardInterrupt, as the first one does without a terminal.
        """
        stopped = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal stopped
            if stopped:
                signal.default_int_handler(number, frame)
            stopped = True

        if not self.is_interactive:
            yield lambda: False
            return
        before = signal.signal(signal.SIGINT, stop)
        try:
            yield lambda: stopped
        finally:
            signal.signal(signal.SIGINT, before)

    def _line(self, prompt: str) -> str | None:
        """Return the next line without its end; None at the end of the input."""
        if not self.is_interactive:
            line = sys.stdin.readline()
            return line.removesuffix("\n").removesuffix("\r") if line else None
        try:
            return input(prompt)
        except EOFError:
            print()
            return None
