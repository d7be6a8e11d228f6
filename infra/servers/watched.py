"""Steps of an installation that say nothing themselves: how much has arrived is said for them, every few seconds."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from infra.servers.errors import ServerError

SAY_EVERY_SECONDS = 5.0
LAST_CHARACTERS = 2_000


def run_watched(command: Sequence[str], folder: Path, grows: Path) -> None:
    """Run in a folder; its output is shown only if it fails.

    Args:
        grows: the folder whose size tells how far it is.

    Raises:
        ServerError: it failed, with the last of what it said.
    """
    started = time.monotonic()
    with (folder / "step.log").open("w+b") as log:
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            while process.poll() is None:
                try:
                    process.wait(SAY_EVERY_SECONDS)
                except subprocess.TimeoutExpired:
                    print(f"    {_megabytes(grows):.0f} MB after {time.monotonic() - started:.0f} s", flush=True)
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip()
    (folder / "step.log").unlink()
    if process.returncode:
        raise ServerError(f"this step failed with {process.returncode}: {' '.join(command)}\n{said[-LAST_CHARACTERS:]}")


def _megabytes(folder: Path) -> float:
    """Files may come and go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total / 1e6
