"""Commands as processes whose interruption is complete before the caller's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from infra.run.embedded.layout import ROOT

INTERRUPTED = 128 + signal.SIGINT
STOP_SECONDS = 30.0


class CommandFailedError(Exception):
    """A command ended with an error, which it has printed."""


def run_command(words: Sequence[str]) -> None:
    """Run `thumbwheel WORDS`, and on an interruption wait until it has saved its state.

    The command has a process group of its own: Ctrl-C on a terminal reaches only this process,
    which interrupts the command once. Its workers cannot outlive it then.

    Raises:
        CommandFailedError: the status is not 0.
        KeyboardInterrupt: this process or the command was interrupted.
    """
    command = [sys.executable, "-m", "thumbwheel_cli", *words]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    if status in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if status != 0:
        raise CommandFailedError(f"thumbwheel {' '.join(words[:2])} ended with status {status}")
