"""Supervised process: forward its output, restart on failure, stop with time to drain."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.run.supervision.ports import HOST
from infra.run.supervision.terminal import SUPERVISOR
from training.errors import DetailedError

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 15.0
# A process that ran this long was healthy, so the next failure restarts with the shortest backoff.
HEALTHY_AFTER_SECONDS = 30.0
CHECK_SECONDS = 5.0
# Of the log of a program that ends at its start, printed with the error.
LAST_LINES, LAST_CHARACTERS = 15, 500
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """A program to supervise.

    The program is ready when `port` accepts connections and the optional `ready` check succeeds.

    Args:
        port: None for a program that does not listen.
        stops_first: stop the program before the others, because its drain needs the others.
        leftovers: files that the program leaves behind; removed after its end.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int | None
    stop_seconds: float = 15.0
    stop_signal: signal.Signals = signal.SIGTERM
    stops_first: bool = False
    ready: Callable[[], Awaitable[bool]] | None = None
    leftovers: tuple[Path, ...] = ()

    async def is_ready(self) -> bool:
        """Return True if the program is ready now."""
        if self.port is not None:
            try:
                _, writer = await asyncio.open_connection(HOST, self.port)
            except OSError:
                return False
            writer.close()
        if self.ready is None:
            return True
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.ready(), CHECK_SECONDS)
        return False

    def clean(self) -> None:
        """Remove leftover files after the end of the program."""
        for file in self.leftovers:
            file.unlink(missing_ok=True)


class ChildFailedError(DetailedError):
    """A program did not become ready."""

    reason = "FAILED"


class Child:
    """Supervisor of a single program, until `stop`."""

    def __init__(self, program: Program, say: Callable[[str, str], None], log_file: Path) -> None:
        self.program = program
        self.starts = 0
        self._say = say
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._stopping = False
        # Of the present start, and of the start that ended last.
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._ended: Sequence[str] = ()

    @property
    def pid(self) -> int | None:
        """Return the process id while the program runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        """Start the program and restart it whenever it exits."""
        self._supervision = asyncio.create_task(self._supervise())

    async def wait_ready(self, within_seconds: float) -> None:
        """Wait until the program is ready.

        Raises:
            ChildFailedError: the program exited, or the time-out expired.
        """
        end = time.monotonic() + within_seconds
        while time.monotonic() < end:
            if self.starts > 1:
                lines = "".join(f"\n    {line}" for line in self._ended)
                raise ChildFailedError(
                    f"{self.program.name} exited while starting; "
                    f"its last lines, from {self._log_file}:{lines or ' none'}",
                    field=self.program.name,
                    reason="STOPPED",
                )
            if await self.program.is_ready():
                return
            await asyncio.sleep(0.05)
        raise ChildFailedError(
            f"{self.program.name}: not ready within {within_seconds:.0f} s; see {self._log_file}",
            field=self.program.name,
            reason="TIMED_OUT",
            limit=f"{within_seconds:.0f} s",
        )

    async def stop(self) -> None:
        """Send the stop signal, wait for the drain, then send SIGKILL."""
        self._stopping = True
        process = self._process
        if process and process.returncode is None:
            process.send_signal(self.program.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.program.stop_seconds)
            except TimeoutError:
                self._say(
                    SUPERVISOR,
                    f"{self.program.name} did not stop in {self.program.stop_seconds:.0f} s: "
                    "killing",
                )
                process.kill()
        if self._supervision:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
        self.program.clean()

    async def kill(self) -> None:
        """Kill the program without time to drain."""
        if self._process and self._process.returncode is None:
            self._process.kill()
        # stop() ends the supervision and removes leftover files.
        await self.stop()

    async def _supervise(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping:
                return
            run_seconds = time.monotonic() - started
            backoff = FIRST_BACKOFF_SECONDS if run_seconds > HEALTHY_AFTER_SECONDS else backoff
            self._say(
                SUPERVISOR,
                f"{self.program.name} exited ({describe_exit(code)}); restarting in {backoff:g} s",
            )
            # A stop() during the pause cancels this task.
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _run_once(self) -> int:
        self.starts += 1
        self._process = await asyncio.create_subprocess_exec(
            *self.program.command,
            env={**os.environ, **self.program.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C reaches only the supervisor, and the supervisor stops its children in order.
            start_new_session=True,
            preexec_fn=partial(die_with_parent, self.program.stop_signal)
            if sys.platform == "linux"
            else None,
        )
        assert self._process.stdout
        with self._log_file.open("ab") as log:
            while True:
                try:
                    line = await self._process.stdout.readuntil(b"\n")
                except asyncio.IncompleteReadError as error:
                    line = error.partial
                except asyncio.LimitOverrunError as error:  # pass a longer line on in parts
                    line = await self._process.stdout.readexactly(error.consumed)
                if not line:
                    break
                log.write(line)
                log.flush()
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self._lines.append(text[:LAST_CHARACTERS])
                self._say(self.program.name, text)
        self._ended = tuple(self._lines)
        self._lines.clear()
        return await self._process.wait()


def describe_exit(code: int) -> str:
    """Format an exit code: `exit 3` or `killed by SIGKILL`."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def die_with_parent(number: signal.Signals) -> None:
    """Request the stop signal from Linux at the death of the supervisor.

    No process remains after a kill -9 of the supervisor.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
