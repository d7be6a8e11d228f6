"""What an installation says while a step of it is silent: how much has arrived, and for how long it
has been at it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SAY_EVERY_SECONDS = 5.0
# Whoever has waited for minutes wants a line less often.
SAY_EVERY_SHARE = 0.1


@contextmanager
def told(folder: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Say again and again, ever more rarely, how large the folder is in which the download arrives,
    until the block ends; only how long it takes where nothing is downloaded.
    """
    ended = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not ended.wait(
            max(SAY_EVERY_SECONDS, SAY_EVERY_SHARE * (time.monotonic() - started))
        ):
            arrived = f"{_megabytes(folder):.0f} MB after" if folder else "at it for"
            say(f"  {arrived} {time.monotonic() - started:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _megabytes(folder: Path) -> float:
    """Files may come and go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total / 1e6
