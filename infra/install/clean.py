"""`make clean`: removes the environment and what was built, with --all the state folders of this
clone too, and says what stays.

Runs on the system's Python alone. Downloads stay in any case: other clones take theirs from the
same folder.
"""

import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from infra.install.environment import ROOT, cache
from infra.supervision.supervisor import RUNNING, find_running

STATES = ".state*"
# A state folder may hold others: the stack's, a demonstration's, that of the stack's servers.
NESTED = (RUNNING, f"*/{RUNNING}", f"*/*/{RUNNING}")
UNITS = ("B", "kB", "MB", "GB")


def clean(clone: Path, downloads: Path, *, everything: bool) -> None:
    """Raises: SystemExit, and then nothing was removed: something runs in what would go."""
    states = sorted(path for path in clone.glob(STATES) if path.is_dir())
    if everything:
        refuse_running(states)
    for folder in [clone / ".venv", clone / "dist", *(states if everything else ())]:
        remove(folder)
    for folder in () if everything else states:
        say(
            f"stays: {folder}, {size(folder)}: conversations, thumbs, models, keys (make clean ALL=1 removes it)"
        )
    if downloads.is_dir():
        say(
            f"stays: {downloads}, {size(downloads)}: downloads of all clones (to be rid of them: rm -rf {downloads})"
        )


def refuse_running(states: list[Path]) -> None:
    """Raises: SystemExit naming who runs where."""
    for folder in states:
        for note in (found for pattern in NESTED for found in folder.glob(pattern)):
            if running := find_running(note.parent):
                sys.exit(
                    f"==> nothing removed: process {running.pid} works in {note.parent}; stop it first (Ctrl-C)"
                )


def remove(folder: Path) -> None:
    """Name it first. Of a link only the link goes: what it leads to was put there by somebody."""
    if folder.is_symlink():
        say(f"removing {folder}, a link; {folder.resolve()} stays")
        folder.unlink()
    elif folder.is_dir():
        say(f"removing {folder}, {size(folder)}")
        shutil.rmtree(folder)


def size(folder: Path) -> str:
    """A file with two names counts once."""
    sizes = {(status.st_dev, status.st_ino): status.st_size for status in _files(folder)}
    taken, unit = float(sum(sizes.values())), 0
    while taken >= 1000 and unit < len(UNITS) - 1:
        taken, unit = taken / 1000, unit + 1
    return f"{taken:.1f} {UNITS[unit]}" if unit else f"{taken:.0f} B"


def _files(folder: Path) -> Iterator[os.stat_result]:
    for where, _, names in os.walk(folder):
        for name in names:
            yield (Path(where) / name).lstat()


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m infra.install.clean", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="state folders too: everything that was said and learned"
    )
    clean(ROOT, cache(), everything=parser.parse_args().all)
