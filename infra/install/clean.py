"""Remove the environment and build results; with --all also the state folders of this clone.

Runs on the system's Python. Downloads are preserved, because other clones use the same folder;
their path is printed.
"""

import os
import shutil
import sys
from argparse import ArgumentParser
from pathlib import Path

from infra.install.environment import ROOT, cache
from infra.run.supervision.supervisor import RUNNING, find_running

STATES = ".state*"
# State folders may be nested: the stack, a demonstration, the servers of the stack.
NESTED = (RUNNING, f"*/{RUNNING}", f"*/*/{RUNNING}")
UNITS = ("B", "kB", "MB", "GB")


def clean(clone: Path, downloads: Path, *, everything: bool) -> None:
    """Remove the folders, or none of them.

    Raises:
        SystemExit: a system is running in a folder to be removed.
    """
    states = sorted(path for path in clone.glob(STATES) if path.is_dir())
    if everything:
        refuse_running(states)
    for folder in [clone / ".venv", clone / "dist", *(states if everything else ())]:
        remove(folder)
    for folder in () if everything else states:
        say(
            f"preserved: {folder}, {size(folder)}: conversations, thumbs, models, keys "
            "(remove with make clean ALL=1)"
        )
    if downloads.is_dir():
        say(
            f"preserved: {downloads}, {size(downloads)}: downloads of all clones "
            f"(remove with rm -rf {downloads})"
        )


def refuse_running(states: list[Path]) -> None:
    """Check that no system is running in the state folders.

    Raises:
        SystemExit: names the process and the folder.
    """
    for folder in states:
        for note in (found for pattern in NESTED for found in folder.glob(pattern)):
            if running := find_running(note.parent):
                sys.exit(
                    f"==> nothing removed: process {running.pid} is running in {note.parent}; "
                    "stop it first (Ctrl-C)"
                )


def remove(folder: Path) -> None:
    """Remove a folder and print its name. Of a symbolic link, only the link is removed."""
    if folder.is_symlink():
        say(f"removing {folder}, a link; {folder.resolve()} is preserved")
        folder.unlink()
    elif folder.is_dir():
        say(f"removing {folder}, {size(folder)}")
        shutil.rmtree(folder)


def size(folder: Path) -> str:
    """Return the size of a folder in readable form. A file with two hard links counts once."""
    files = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    statuses = (file.lstat() for file in files)
    sizes = {(status.st_dev, status.st_ino): status.st_size for status in statuses}
    taken, unit = float(sum(sizes.values())), 0
    while taken >= 1000 and unit < len(UNITS) - 1:
        taken, unit = taken / 1000, unit + 1
    return f"{taken:.1f} {UNITS[unit]}" if unit else f"{taken:.0f} B"


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m infra.install.clean", description=__doc__)
    parser.add_argument(
        "--all",
        action="store_true",
        help="also remove state folders with conversations, feedback and models",
    )
    clean(ROOT, cache(), everything=parser.parse_args().all)
