"""Notice that a run must end soon: SIGTERM to the process that drives it, or a machine of its workers that is taken away.

Stages look at the end of each step (RunContext.stop_if_told). A pod of Ray's that Kubernetes ends drains its node first, and that is what
Ray Train tells its workers of; the driver's word reaches them as a file beside the run. Ray is imported where it is used.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MARK = "stop"  # in the run's storage; whoever makes it by hand stops the run too
LOOK_SECONDS = 0.5

Handler = Callable[[int, FrameType | None], object] | int


@contextmanager
def stopped_by_signal(mark: Path) -> Iterator[None]:
    """Inside the block SIGTERM makes the mark; a second one does what it did before."""
    mark.unlink(missing_ok=True)
    with kept_handler() as before:

        def note(_: int, __: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, before)
            mark.touch()

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


@contextmanager
def kept_handler() -> Iterator[Handler]:
    """What SIGTERM does, which it does again after the block. Signals are the main thread's; in another nothing changes."""
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        yield before
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def leaving_machines() -> tuple[str, ...]:
    """In a worker of Ray Train: the machines of its group that are taken away, as far as this worker knows.

    Not ray.train.get_preemption_info: that is a barrier through an actor at every step, and stages agree in a sum of their own.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    told = get_train_context().preemption_context.preemption_info
    return () if told is None else tuple(told.preempted_node_ids)


def wait_until_gone(machines: Sequence[str], seconds: float) -> None:
    """In the driver, so that a new group is not counted on machines that are about to go: Ray counts them while they live."""
    import ray

    end = time.monotonic() + seconds
    while time.monotonic() < end and any(node["Alive"] and node["NodeID"] in machines for node in ray.nodes()):
        time.sleep(LOOK_SECONDS)
