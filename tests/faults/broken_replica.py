"""A feedback replica with a fault: death, a pause for freezing, a wrong clock, or a broken disk.

Usage: `python -m tests.faults.broken_replica POINT NUMBER`. The fault occurs at the given pass
through the point. For the clock, NUMBER is the error in seconds; 0 means a jumping clock.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.feedback import __main__ as service
from services.feedback import streams
from services.feedback.kafka.producer import KafkaPublisher
from services.feedback.lake.object_store import Directory
from services.feedback.sink import EventT, Sink, SinkStep
from services.feedback.spool.spool import Spool

APPENDED, PUBLISHED, PUTTING, SKEWED = "appended", "published", "putting", "skewed"
BROKEN_DISK = "broken disk"
JUMP_SECONDS = 3_600
# A file of this name in the spool folder marks that the point was reached.
REACHED = "reached"
FROZEN_FOR_SECONDS = 3.0
# Numbers of the system call fdatasync, and of constants in linux/prctl.h, filter.h and seccomp.h.
FDATASYNC = {"x86_64": 75, "aarch64": 83}
SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000


def main(point: str, times: int) -> int:
    """Install the fault, then run the service."""
    left = [times]

    def strike() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def wait() -> None:
        left[0] -= 1
        if not left[0]:
            (Path(os.environ["TW_FEEDBACK_SPOOL_DIRECTORY"]) / REACHED).touch()
            time.sleep(FROZEN_FOR_SECONDS)

    match point:
        case "appended":
            _after(Spool, "append", strike)
        case "published":
            _after(KafkaPublisher, "publish", strike)
        case "putting":
            _after(Directory, "put", wait)
        case "skewed":
            _skew(times)
        case "broken disk":

            def break_disk() -> None:
                left[0] -= 1
                if not left[0]:
                    _fail_syncs()

            _after(Spool, "append", break_disk)
        case _:

            def strike_at(step: SinkStep) -> None:
                if step is SinkStep(point):
                    strike()

            streams.Sink = _breaking(strike_at)  # type: ignore[misc]
    sys.argv[1:] = []
    return service.main()


def _fail_syncs() -> None:
    """Let every further fdatasync of this thread fail with EIO, by a filter in the kernel."""
    program = [
        (LOAD_WORD, 0, 0, 0),  # the number of the system call
        (JUMP_IF_EQUAL, 0, 1, FDATASYNC[platform.machine()]),
        (RETURN, 0, 0, FAIL_WITH | errno.EIO),
        (RETURN, 0, 0, ALLOW),
    ]
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    described = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SET_SECCOMP, FILTER, described, 0, 0)):
        if library.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl failed: the disk does not break")


def _skew(seconds: int) -> None:
    """Skew the wall clock. The monotonic clock never jumps on real machines either."""
    true = time.time

    def skewed() -> float:
        now = true()
        return now + (seconds or JUMP_SECONDS * (int(now) % 2))

    time.time, time.time_ns = skewed, lambda: int(skewed() * 1e9)


def _breaking(on_step: Callable[[SinkStep], None]) -> type[Sink[Any]]:
    class BreakingSink(Sink[EventT]):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, on_step=on_step, **named)

    return BreakingSink


def _after(kind: type[Any], method: str, then: Callable[[], None]) -> None:
    """Wrap a method to call `then` before returning."""
    whole = getattr(kind, method)

    def done(self: Any, *arguments: Any) -> Any:
        result = whole(self, *arguments)
        then()
        return result

    setattr(kind, method, done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
