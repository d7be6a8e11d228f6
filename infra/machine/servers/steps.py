"""Terminating commands of the installation and of the servers' preparation."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from infra.machine.servers.errors import ServerError

STEP_SECONDS = 120.0
MAX_OUTPUT_CHARACTERS = 2_000


def run_steps(
    what: str,
    commands: Sequence[Sequence[str]],
    folder: Path | None = None,
    within_seconds: float = STEP_SECONDS,
) -> None:
    """Run commands concurrently in a folder; their output is shown only on failure.

    Raises:
        ServerError: a command failed, with the end of its output, or the time-out expired.
    """
    running = [
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        for process in running:
            output, _ = process.communicate(timeout=within_seconds)
            if process.returncode:
                end = output.strip()[-MAX_OUTPUT_CHARACTERS:]
                raise ServerError(
                    f"{what} failed with {process.returncode}: {end}",
                    field=what,
                    reason="FAILED",
                )
    except subprocess.TimeoutExpired as error:
        raise ServerError(
            f"{what} took longer than {within_seconds:.0f} s",
            field=what,
            reason="TIMED_OUT",
            limit=f"{within_seconds:g} s",
        ) from error
    finally:
        for process in running:
            process.kill()
            process.communicate()
