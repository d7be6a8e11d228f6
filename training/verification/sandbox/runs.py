"""Execution of code in the sandbox, with bounded output and cleanup of all its processes."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, BinaryIO

from training.verification.sandbox.bubblewrap import (
    ENTER_GROUPS,
    Interpreter,
    SandboxUnavailableError,
    command,
    find_bubblewrap,
    this_interpreter,
)
from training.verification.sandbox.control_groups import ControlGroups, find_control_groups
from training.verification.sandbox.system_calls import UnknownArchitectureError, build_filter

INSIDE = Path(__file__).with_name("inside.py")
READ_BYTES = 65_536
ERROR_CHARACTERS = 400
# As root each run has its own user id, so that the kernel counts its processes separately. The
# range lies below the user `nobody` and above ids assigned by systems.
FIRST_USER, USERS = 64_000, 1_000


@dataclass(frozen=True)
class Limits:
    """Limits of one run.

    With control groups, memory_bytes and processes apply to the whole run. In any case they apply
    per process and per user.
    """

    wall_seconds: float = 10.0
    processor_seconds: int = 5
    memory_bytes: int = 256 * 2**20
    processes: int = 16
    disk_bytes: int = 16 * 2**20
    output_bytes: int = 2**20
    open_files: int = 64

    def of_a_process(self) -> dict[str, tuple[int, int]]:
        """Return soft and hard limits for setrlimit, by name."""
        hard = {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.disk_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        # The soft limit sends a signal that shows the cause; code that ignores it gets one more
        # second.
        processor = (self.processor_seconds, self.processor_seconds + 1)
        return {"RLIMIT_CPU": processor, **{name: (value, value) for name, value in hard.items()}}


class EndReason(StrEnum):
    """Reason for the end of a run."""

    EXITED = "by_itself"
    OUT_OF_TIME = "out_of_time"
    KILLED = "killed"  # by a limit or its own signal
    FLOODED = "flooded"  # exceeded the output limit


@dataclass(frozen=True)
class Run:
    """Result of a run. `output` is raw and untrusted."""

    ended: EndReason
    output: bytes
    seconds: float


@dataclass(frozen=True)
class Sandbox:
    """A tested sandbox; create with `open_sandbox`."""

    bubblewrap: Path
    limits: Limits
    groups: ControlGroups | None
    interpreter: Interpreter
    numbers: Iterator[int]

    def run(self, request: Mapping[str, object]) -> Run:
        """Run a request for inside.py: {"code"} with {"function", "calls"} or {"inputs"}.

        Raises:
            SandboxUnavailableError: the sandbox did not start.
        """
        number = next(self.numbers)
        user = FIRST_USER + (os.getpid() + number) % USERS if os.geteuid() == 0 else None
        full_request = {**request, "limits": self.limits.of_a_process(), "uid": user}
        groups = self.groups.of_one_run(str(number)) if self.groups else contextlib.nullcontext(())
        with (
            groups as entries,
            _in_memory(json.dumps(full_request).encode()) as request_file,
            _in_memory(build_filter()) as filter_file,
        ):
            inner = command(
                self.bubblewrap, self.interpreter, self.limits.disk_bytes, filter_file.fileno()
            )
            outer = (
                ["/bin/sh", "-c", ENTER_GROUPS, "sh", *map(str, entries), "--"] if entries else []
            )
            started = time.monotonic()
            with subprocess.Popen(  # noqa: S603 - starts the sandbox
                [*outer, *inner, INSIDE.read_text()],
                stdin=request_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},  # bubblewrap's environment is readable inside
                pass_fds=(filter_file.fileno(),),
                start_new_session=True,
            ) as process:
                return _supervise(process, self.limits, started)


def open_sandbox(
    environment: Mapping[str, str],
    limits: Limits | None = None,
    interpreter: Interpreter | None = None,
) -> Sandbox:
    """Return a sandbox after a successful test run.

    Raises:
        SandboxUnavailableError: the sandbox does not work on this machine; the message gives the
            remedy.
    """
    limits = limits or Limits()
    try:
        build_filter()
    except UnknownArchitectureError as error:
        raise SandboxUnavailableError(
            str(error), field=error.field, reason=error.reason, limit=error.limit
        ) from error
    bubblewrap = find_bubblewrap(environment)
    groups = find_control_groups(limits.memory_bytes, limits.processes)
    sandbox = Sandbox(
        bubblewrap, limits, groups, interpreter or this_interpreter(), itertools.count()
    )
    slow_sandbox = replace(
        sandbox, limits=replace(limits, wall_seconds=max(limits.wall_seconds, 30.0))
    )
    first = slow_sandbox.run(
        {
            "code": "import os\ndef who(): return [6 * 7, os.getuid() != 0]",
            "function": "who",
            "calls": [[]],
        }
    )
    if first.output != b'{"value": [42, true]}\n':
        raise SandboxUnavailableError(
            f"{bubblewrap} starts, but the test run gave {first.output[:80]!r} ({first.ended})",
            field=str(bubblewrap),
            reason="MISMATCH",
        )
    return sandbox


def _supervise(process: subprocess.Popen[bytes], limits: Limits, started: float) -> Run:
    """Read until the run ends or exceeds a limit, then kill all its processes."""
    assert process.stdout and process.stderr
    try:
        ended, output, errors = _read(
            process.stdout, process.stderr, limits, started + limits.wall_seconds
        )
    finally:
        # Killing bubblewrap kills the first process of the namespace, and the kernel all others in
        # it.
        process.kill()
        status = process.wait()
    if errors:
        # inside.py closes this pipe before running code, so the text comes from the sandbox setup.
        raise _unavailable(errors.decode(errors="replace").strip())
    if ended is EndReason.EXITED and status != 0:
        ended = EndReason.OUT_OF_TIME if status == 128 + signal.SIGXCPU else EndReason.KILLED
    return Run(ended, output, time.monotonic() - started)


def _read(
    stdout: IO[bytes], stderr: IO[bytes], limits: Limits, end: float
) -> tuple[EndReason, bytes, bytes]:
    """Read both pipes until they close or a limit of time or size is reached."""
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ, output)
        selector.register(stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                return EndReason.OUT_OF_TIME, bytes(output), bytes(errors)
            for key, _ in selector.select(left):
                data = os.read(key.fd, READ_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
            if len(output) + len(errors) > limits.output_bytes:
                return EndReason.FLOODED, bytes(output[: limits.output_bytes]), b""
    return EndReason.EXITED, bytes(output), bytes(errors)


def _unavailable(errors: str) -> SandboxUnavailableError:
    """Return an error with the remedy for bubblewrap's message."""
    last = errors[-ERROR_CHARACTERS:]
    if "still root" in errors or "setres" in errors:
        return SandboxUnavailableError(
            f"the sandbox cannot drop root: user ids {FIRST_USER} to {FIRST_USER + USERS}"
            f" are not mapped here ({last})",
            field="users",
        )
    if "ermission" in errors or "not permitted" in errors or "namespace" in errors:
        return SandboxUnavailableError(
            f"bubblewrap may not create namespaces here ({last}). Root needs CAP_SYS_ADMIN. Other"
            " users need unprivileged user namespaces (sysctl user.max_user_namespaces above 0 and,"
            " if present, kernel.unprivileged_userns_clone=1 and"
            " kernel.apparmor_restrict_unprivileged_userns=0) and an interpreter readable by this"
            " user. A container also needs a seccomp profile that allows them, in a cluster by"
            " training.securityContext (docs/evaluation.md). Code is not run without namespaces",
            field="namespaces",
        )
    return SandboxUnavailableError(f"the sandbox does not start: {last}")


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[BinaryIO]:
    """Yield a sealed, immutable file in memory, positioned at its start."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "w+b", buffering=0) as file:
        file.write(data)
        file.seek(0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        yield file


_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
