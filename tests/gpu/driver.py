"""Cards of this machine as NVIDIA's driver lists them: `python3 -m tests.gpu.driver`.

Runs before the environment is installed, with the standard library alone. Exit status 3: no card.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass

PROGRAM = "nvidia-smi"
QUERY = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
NO_GPU = 3
SECONDS = 60


class NoGpuError(RuntimeError):
    """This machine has no usable NVIDIA GPU; the text gives the reason."""


@dataclass(frozen=True)
class Card:
    """A card: the driver's name of it, the version of the driver, memory in MiB."""

    name: str
    driver: str
    memory_mib: int


def find_cards() -> list[Card]:
    """Return all cards.

    Raises:
        NoGpuError: the driver is missing, does not respond, or lists no card.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise NoGpuError(f"no NVIDIA GPU: {PROGRAM} of NVIDIA's driver is not on PATH")
    try:
        done = subprocess.run(
            [program, *QUERY], capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NoGpuError(f"no NVIDIA GPU: {PROGRAM} gave no answer in {SECONDS} s") from error
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if row]
    if done.returncode or not rows or any(len(row) != 3 for row in rows):
        said = (done.stderr or done.stdout).strip()
        raise NoGpuError(f"no NVIDIA GPU: {PROGRAM} ended with {done.returncode}: {said}")
    return [Card(name, driver, int(memory)) for name, driver, memory in rows]


def main() -> int:
    try:
        cards = find_cards()
    except NoGpuError as error:
        print(f"==> {error}", file=sys.stderr)
        return NO_GPU
    for card in cards:
        print(f"==> {card.name}, {card.memory_mib:,} MiB, driver {card.driver}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
