"""Kill searches at random points and repeat them; compare each result byte by byte.

Usage: `python -m tests.training.corpus.duplicates.kill_searches FOLDER KILLS SEED`. FOLDER has
texts/*.jsonl. Prints the number of kills after which rows of some shards existed, but no result.
This process imports once and forks every search, so that a kill hits the search, not its imports.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.support.duplicate_search import RESULT, search
from training.corpus.duplicates.ngrams import word_hashes

MOST_SECONDS = 0.03  # after the rows of a number of shards, until the kill


def main() -> None:
    folder, kills, generator = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    word_hashes("")  # make the tables once
    finish(started(folder))
    expected = outputs(folder)
    shards = len(expected) - 1
    hits = between = 0
    while hits < kills:
        shutil.rmtree(folder / "rows")
        shutil.rmtree(folder / "work")
        (folder / RESULT).unlink()
        process = started(folder)
        wait_for_rows(folder, generator.randint(0, shards), process)
        time.sleep(generator.uniform(0, MOST_SECONDS))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            hits += 1
            rows = list(folder.glob("rows/*.rows"))
            between += bool(rows) and not (folder / RESULT).exists()
            for file in rows:
                assert file.read_bytes() == expected[file.name], file
        finish(started(folder))
        assert outputs(folder) == expected
    print(between)


def started(folder: Path) -> int:
    """Start a search in a copy of this process, and return its id."""
    process = os.fork()
    if process == 0:
        try:
            search(folder, 1)
            os._exit(0)
        finally:
            os._exit(1)
    return process


def wait_for_rows(folder: Path, count: int, process: int) -> None:
    """Wait until the search has written the rows of `count` shards, or has ended."""
    while (
        len(list(folder.glob("rows/*.rows"))) < count
        and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.001)


def finish(process: int) -> None:
    """Wait for the end of a search."""
    assert os.waitpid(process, 0)[1] == 0


def outputs(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a search."""
    files = [*folder.glob("rows/*"), folder / RESULT]
    return {file.name: file.read_bytes() for file in files}


if __name__ == "__main__":
    main()
