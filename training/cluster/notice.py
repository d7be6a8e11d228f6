"""Notice that a run must end soon: SIGTERM or Ctrl-C to the process that drives it, or a machine of
its workers that is taken away.

Stages look at the end of each step (RunContext.stop_if_requested). A pod of Ray's that Kubernetes ends
drains its node first, and that is what Ray Train tells its workers of; the driver's word reaches
them as a file beside the run. Ray is imported where it is used.
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

from training.stages.context import StoppedError

MARK = "stop"  # in the run's storage; whoever makes it by hand stops the run too
LOOK_SECONDS = 0.5
TOLD_BY = (
    signal.SIGTERM,
    signal.SIGINT,
)  # while Ray trains, Ctrl-C is Ray's, which ends the run at once
AGAIN = "\nending the step at hand, which is kept; once more ends at once, and what came after the last checkpoint is lost\n"

Handler = Callable[[int, FrameType | None], object] | int


@contextmanager
def stopped_by_signal(mark: Path) -> Iterator[None]:
    """Inside the block SIGTERM or Ctrl-C makes the mark; a second one does what it did before. What
    is ignored stays so.
    """
    mark.unlink(missing_ok=True)
    told = TOLD_BY[0]
    with kept_handlers() as before:

        def note(number: int, _: FrameType | None) -> None:
            nonlocal told
            told = signal.Signals(number)
            _restore(before)
            mark.touch()
            if told is signal.SIGINT:
                os.write(2, AGAIN.encode())  # to stderr; a print may be what this signal cut off

        if threading.current_thread() is threading.main_thread():
            for number in (number for number in TOLD_BY if before[number] is not signal.SIG_IGN):
                signal.signal(number, note)
        try:
            yield
        except StoppedError as error:
            error.stop_signal = told
            raise
        finally:
            mark.unlink(missing_ok=True)


@contextmanager
def kept_handlers() -> Iterator[Mapping[signal.Signals, Handler]]:
    """What these signals do, which they do again after the block. Signals are the main thread's; in
    another nothing changes.
    """
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in TOLD_BY}
    try:
        yield before
    finally:
        if threading.current_thread() is threading.main_thread():
            _restore(before)


def _restore(handlers: Mapping[signal.Signals, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def leaving_machines() -> tuple[str, ...]:
    """In a worker of Ray Train: the machines of its group that are taken away, as far as this
    worker knows.

    Not ray.train.get_preemption_info: that is a barrier through an actor at every step, and stages
    agree in a sum of their own.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    told = get_train_context().preemption_context.preemption_info
    return () if told is None else tuple(told.preempted_node_ids)


def wait_until_gone(machines: Sequence[str], seconds: float) -> None:
    """In the driver, so that a new group is not counted on machines that are about to go: Ray
    counts them while they live.
    """
    import ray

    end = time.monotonic() + seconds
    while time.monotonic() < end and any(
        node["Alive"] and node["NodeID"] in machines for node in ray.nodes()
    ):
        time.sleep(LOOK_SECONDS)
