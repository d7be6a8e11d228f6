"""Requests to stop a run: SIGTERM or Ctrl-C to its driver, or preemption of a worker's machine.

Stages check for a request at the end of each step (RunContext.stop_if_requested). A Ray pod that
Kubernetes terminates first drains its node, which Ray Train reports to its workers. Requests to the
driver reach workers as a file in the storage of the run. Ray is imported in functions.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from training.runtime.context import StoppedError

STOP_FILE = "stop"  # in the storage of the run; creating it by hand also stops the run
POLL_SECONDS = 0.5
# While Ray trains, Ray handles Ctrl-C and ends the run at once.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPING = (
    "\nstopping after the current step, which is saved; a second Ctrl-C stops at once and loses "
    "the steps since the last checkpoint\n"
)

Handler = Callable[[int, FrameType | None], object] | int


@contextmanager
def stopped_by_signal(stop_file: Path) -> Iterator[None]:
    """Create the stop file on SIGTERM or Ctrl-C inside the block.

    A second signal has its previous effect. Ignored signals stay ignored.
    """
    stop_file.unlink(missing_ok=True)
    received = STOP_SIGNALS[0]
    with restored_handlers() as before:

        def note(number: int, _: FrameType | None) -> None:
            nonlocal received
            received = signal.Signals(number)
            _restore(before)
            stop_file.touch()
            if received is signal.SIGINT:
                # os.write, because the signal may have interrupted a print
                os.write(2, STOPPING.encode())

        if threading.current_thread() is threading.main_thread():
            for number in (
                number for number in STOP_SIGNALS if before[number] is not signal.SIG_IGN
            ):
                signal.signal(number, note)
        try:
            yield
        except StoppedError as error:
            error.stop_signal = received
            raise
        finally:
            stop_file.unlink(missing_ok=True)


@contextmanager
def restored_handlers() -> Iterator[Mapping[signal.Signals, Handler]]:
    """Restore the handlers of these signals after the block.

    Only the main thread can change them; other threads change nothing.
    """
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in STOP_SIGNALS}
    try:
        yield before
    finally:
        if threading.current_thread() is threading.main_thread():
            _restore(before)


def _restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def leaving_machines() -> tuple[str, ...]:
    """Return the machines of the worker group that are being preempted, as known to this worker.

    This does not use ray.train.get_preemption_info, which is a barrier through an actor at every
    step; stages exchange the information in a sum of their own.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    received = get_train_context().preemption_context.preemption_info
    return () if received is None else tuple(received.preempted_node_ids)


def wait_until_gone(machines: Sequence[str], seconds: float) -> None:
    """Wait in the driver until preempted machines are gone.

    Ray counts machines as available while they are alive.
    """
    import ray

    end = time.monotonic() + seconds
    while time.monotonic() < end and any(
        node["Alive"] and node["NodeID"] in machines for node in ray.nodes()
    ):
        time.sleep(POLL_SECONDS)
