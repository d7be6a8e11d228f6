"""Short commands that make a server's folder ready before it starts."""

import subprocess
from collections.abc import Mapping, Sequence

from infra.servers.errors import ServerError

STEP_SECONDS = 120.0
LAST_CHARACTERS = 2_000


def run_steps(what: str, commands: Sequence[Sequence[str]], environment: Mapping[str, str] | None = None) -> None:
    """Run all of them at once.

    Raises:
        ServerError: one failed, with the last of what it said.
    """
    running = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for command in commands
    ]
    for process in running:
        said, _ = process.communicate(timeout=STEP_SECONDS)
        if process.returncode:
            raise ServerError(f"{what} failed with {process.returncode}: {said.strip()[-LAST_CHARACTERS:]}")
