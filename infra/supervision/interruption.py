"""Ctrl-C at any moment of a program: the first ends its work, whatever that waits for; the second
ends the stopping too.

Before there is a loop the signals raise KeyboardInterrupt, so steps that block belong there: a loop
would not hear them meanwhile.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 128 + signal.SIGINT


def stop_like_ctrl_c() -> None:
    """SIGTERM does what SIGINT does, from here on: unwinds what was begun, rather than end the
    process on the spot.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def leave() -> NoReturn:
    """The end after KeyboardInterrupt."""
    print("==> stopped", flush=True)
    sys.exit(STATUS)


@contextmanager
def interruptible(
    say: Callable[[str], None], first: str = "running answers are finished first"
) -> Iterator[None]:
    """The first signal cancels this task inside the block, and the block ends well once everything
    in it is cleaned up. A second one cancels what cleans up: supervised() kills then. `first`: what
    is waited for, said with the first.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task

    def interrupt() -> None:
        if task.cancelling():
            say("stopping at once: what still runs is killed")
        else:
            say(f"stopping; {first} (Ctrl-C again: at once)")
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if not task.cancelling():
            raise
        while task.cancelling():
            task.uncancel()
        say("stopped")
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
