"""Progress messages of silent installation steps: downloaded size and elapsed time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SAY_EVERY_SECONDS = 5.0
# Lengthen the interval with the elapsed time.
SAY_EVERY_SHARE = 0.1


@contextmanager
def progress_messages(folder: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Print the size of the download folder and the elapsed time until the end of the block.

    Messages become rarer with time. Without a folder only the elapsed time is printed.
    """
    ended = threading.Event()
    started = time.monotonic()

    def report() -> None:
        while not ended.wait(
            max(SAY_EVERY_SECONDS, SAY_EVERY_SHARE * (time.monotonic() - started))
        ):
            arrived = f"{_megabytes(folder):.0f} MB after" if folder else "running for"
            say(f"  {arrived} {time.monotonic() - started:.0f} s")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _megabytes(folder: Path) -> float:
    """Return the size of a folder; files may disappear meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total / 1e6
