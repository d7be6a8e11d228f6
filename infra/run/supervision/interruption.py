"""Handling of Ctrl-C.

The first signal ends the work of a program. The second signal ends the cleanup as well. Before an
event loop runs, signals raise KeyboardInterrupt. Blocking steps belong there, because a blocked
event loop does not handle signals.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 128 + signal.SIGINT


@contextmanager
def as_command(*expected: type[Exception]) -> Iterator[None]:
    """Run the block of a command: expected errors end it with their text and status 1.

    SIGTERM is handled like SIGINT: KeyboardInterrupt unwinds the block, with status 130.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except expected as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        print("==> stopped", flush=True)
        sys.exit(STATUS)


@contextmanager
def interruptible(
    say: Callable[[str], None], first: str = "running answers are completed first"
) -> Iterator[None]:
    """Cancel the current task inside the block at SIGINT or SIGTERM.

    After the first signal the block exits normally once its cleanup is complete. A second signal
    cancels the cleanup; supervised() then kills its children.

    Args:
        first: what the program waits for, printed at the first signal.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task

    def interrupt() -> None:
        if task.cancelling():
            say("stopping now; killing running processes")
        else:
            say(f"stopping; {first} (press Ctrl-C again to stop now)")
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if not task.cancelling():
            raise
        # Cancellation ends here: later timeouts and task groups must not count the signals.
        while task.cancelling():
            task.uncancel()
        say("stopped")
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
