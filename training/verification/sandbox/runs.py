"""One piece of code run once: started in its sandbox, listened to up to a limit, and ended with
everything that it started.
"""

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
SAID_CHARACTERS = 400
# As root each run has a user of its own, so that the kernel counts its processes alone. Below
# nobody, above what systems hand out.
FIRST_USER, USERS = 64_000, 1_000


@dataclass(frozen=True)
class Limits:
    """Of one run. memory_bytes and processes hold for the run as a whole where there are control
    groups; for each process, and for its user, in any case.
    """

    wall_seconds: float = 10.0
    processor_seconds: int = 5
    memory_bytes: int = 256 * 2**20
    processes: int = 16
    disk_bytes: int = 16 * 2**20
    output_bytes: int = 2**20
    open_files: int = 64

    def of_a_process(self) -> dict[str, tuple[int, int]]:
        """For setrlimit, by name: soft and hard."""
        hard = {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.disk_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        # The soft one ends with a signal that says why; whoever ignores it has a second more.
        processor = (self.processor_seconds, self.processor_seconds + 1)
        return {"RLIMIT_CPU": processor, **{name: (value, value) for name, value in hard.items()}}


class Ended(StrEnum):
    """Why a run is over."""

    BY_ITSELF = "by_itself"
    OUT_OF_TIME = "out_of_time"
    KILLED = "killed"  # by a limit or a signal of its own
    FLOODED = "flooded"  # it wrote more than anybody reads


@dataclass(frozen=True)
class Run:
    """output: what came out of the sandbox, as it is. Nothing in it is to be believed."""

    ended: Ended
    output: bytes
    seconds: float


@dataclass(frozen=True)
class Sandbox:
    """What every run here has in common. Made by open_sandbox, which tries it."""

    bubblewrap: Path
    limits: Limits
    groups: ControlGroups | None
    interpreter: Interpreter
    numbers: Iterator[int]

    def run(self, request: Mapping[str, object]) -> Run:
        """Run what inside.py reads: {"code"} and either {"function", "calls"} or {"inputs"}.

        Raises:
            SandboxUnavailableError: it did not even start.
        """
        number = next(self.numbers)
        user = FIRST_USER + (os.getpid() + number) % USERS if os.geteuid() == 0 else None
        asked = {**request, "limits": self.limits.of_a_process(), "uid": user}
        groups = self.groups.of_one_run(str(number)) if self.groups else contextlib.nullcontext(())
        with (
            groups as entries,
            _in_memory(json.dumps(asked).encode()) as words,
            _in_memory(build_filter()) as rules,
        ):
            inner = command(
                self.bubblewrap, self.interpreter, self.limits.disk_bytes, rules.fileno()
            )
            outer = (
                ["/bin/sh", "-c", ENTER_GROUPS, "sh", *map(str, entries), "--"] if entries else []
            )
            began = time.monotonic()
            with subprocess.Popen(  # noqa: S603 - this is the sandbox
                [*outer, *inner, INSIDE.read_text()],
                stdin=words,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},  # bubblewrap's own environment can be read inside
                pass_fds=(rules.fileno(),),
                start_new_session=True,
            ) as process:
                return _listen(process, self.limits, began)


def open_sandbox(
    environment: Mapping[str, str],
    limits: Limits | None = None,
    interpreter: Interpreter | None = None,
) -> Sandbox:
    """A sandbox that has run a first program and given back what it should.

    Raises:
        SandboxUnavailableError: it cannot be had on this machine; with what to do.
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
    patient = replace(sandbox, limits=replace(limits, wall_seconds=max(limits.wall_seconds, 30.0)))
    first = patient.run(
        {
            "code": "import os\ndef who(): return [6 * 7, os.getuid() != 0]",
            "function": "who",
            "calls": [[]],
        }
    )
    if first.output != b'{"value": [42, true]}\n':
        raise SandboxUnavailableError(
            f"{bubblewrap} starts, but a first program gave {first.output[:80]!r} ({first.ended})",
            field=str(bubblewrap),
            reason="MISMATCH",
        )
    return sandbox


def _listen(process: subprocess.Popen[bytes], limits: Limits, began: float) -> Run:
    """Read until it ends, is over time, or has said too much; then nothing of it is left."""
    assert process.stdout and process.stderr
    try:
        ended, output, said = _read(
            process.stdout, process.stderr, limits, began + limits.wall_seconds
        )
    finally:
        # bubblewrap takes the namespace's first process with it, and the kernel everything in the
        # namespace.
        process.kill()
        status = process.wait()
    if said:
        # Before it runs anything inside.py lets go of this pipe, so that only what set the sandbox
        # up can have spoken.
        raise _unavailable(said.decode(errors="replace").strip())
    if ended is Ended.BY_ITSELF and status != 0:
        ended = Ended.OUT_OF_TIME if status == 128 + signal.SIGXCPU else Ended.KILLED
    return Run(ended, output, time.monotonic() - began)


def _read(
    spoken: IO[bytes], complaints: IO[bytes], limits: Limits, end: float
) -> tuple[Ended, bytes, bytes]:
    """Both until they are closed, at most for so long and so much."""
    output, said = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(spoken, selectors.EVENT_READ, output)
        selector.register(complaints, selectors.EVENT_READ, said)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                return Ended.OUT_OF_TIME, bytes(output), bytes(said)
            for key, _ in selector.select(left):
                data = os.read(key.fd, READ_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
            if len(output) + len(said) > limits.output_bytes:
                return Ended.FLOODED, bytes(output[: limits.output_bytes]), b""
    return Ended.BY_ITSELF, bytes(output), bytes(said)


def _unavailable(said: str) -> SandboxUnavailableError:
    """What to do about what bubblewrap complained of."""
    last = said[-SAID_CHARACTERS:]
    if "still root" in said or "setres" in said:
        return SandboxUnavailableError(
            f"the sandbox cannot give root up: users {FIRST_USER} to {FIRST_USER + USERS} are unknown here ({last})",
            field="users",
        )
    if "ermission" in said or "not permitted" in said or "namespace" in said:
        return SandboxUnavailableError(
            f"bubblewrap may not make namespaces here ({last}). As root it needs CAP_SYS_ADMIN, as anybody else unprivileged user "
            "namespaces (sysctl user.max_user_namespaces above 0 and, where it exists, kernel.unprivileged_userns_clone=1 and "
            "kernel.apparmor_restrict_unprivileged_userns=0) and an interpreter that this user may read. A container has them "
            "only if its seccomp profile and capabilities allow it. Without them no code rewards",
            field="namespaces",
        )
    return SandboxUnavailableError(f"the sandbox does not start: {last}")


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[BinaryIO]:
    """A file that is nowhere, that nobody can change, read from its start."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "w+b", buffering=0) as file:
        file.write(data)
        file.seek(0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        yield file


_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
