"""Pool of worker processes for free text, each killed on excessive time or memory.

A response may have corrupted a worker, so a worker without a timely answer is never reused.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGXCPU

from training.verification.checks import (
    Gym,
    Outcome,
    TextCheck,
    Verdict,
    VerificationError,
    to_mapping,
)

ROOT = Path(__file__).parents[2]
MODULE = "training.verification.worker"
MAX_RESPONSE_CHARACTERS = 200_000  # characters passed on, from the end, where answers are
MAX_ANSWER_BYTES = 10_000
ENVIRONMENT = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR"}
ENVIRONMENT_PREFIXES = ("LC_", "PYTHON")
_OUT_OF_TIME = Verdict(Outcome.OUT_OF_TIME, "the answer could not be judged in time")


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of a worker.

    processor_seconds decide a verdict, independent of machine load; wall_seconds end idle waiting.
    """

    processor_seconds: int = 3
    wall_seconds: float = 30.0
    # Import of libraries: 2 s on an idle machine, 30 s measured next to seven busy processes.
    start_seconds: float = 180.0
    growth_bytes: int = 512 * 2**20  # in addition to the loaded libraries


class _WorkerExited(Exception):
    """The worker ended before its answer."""


def _plain_environment() -> dict[str, str]:
    """Return the variables that an interpreter needs; libraries read texts of models in it."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }


class Worker:
    """One worker process with line-based requests and answers."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                MODULE,
                str(limits.processor_seconds),
                str(limits.growth_bytes),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**_plain_environment(), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C must reach the parent only
        )
        self._loaded: set[str] = set()

    def judge(self, check: TextCheck, response: str) -> Verdict:
        """Judge one response.

        Raises:
            VerificationError: the worker does not start.
            _WorkerExited: the worker crashed; do not use it again.
        """
        described = to_mapping(check)
        needed = check.generator if isinstance(check, Gym) else type(check).__name__
        if needed not in self._loaded:
            self._write({"load": described})
            if not self._line(self._limits.start_seconds):
                self._process.kill()
                self._process.wait()
                self._stderr.seek(0)
                message = self._stderr.read()[-400:].decode(errors="replace")
                raise VerificationError(
                    f"a verifier worker does not start: {message}", field="worker", reason="STOPPED"
                )
            self._loaded.add(needed)
        self._write({"check": described, "response": response[-MAX_RESPONSE_CHARACTERS:]})
        answer = self._line(self._limits.wall_seconds)
        if answer is None:
            self.close()
            return _OUT_OF_TIME
        if answer:
            message = json.loads(answer)
            return Verdict(Outcome(message["outcome"]), message["reason"])
        if self._process.wait() == -SIGXCPU:
            return _OUT_OF_TIME
        raise _WorkerExited(f"a worker ended with {self._process.returncode}")

    @property
    def is_usable(self) -> bool:
        """True if the process is running and accepts requests."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill the process and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _write(self, request: dict[str, object]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # the process has ended; reading will show why
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()

    def _line(self, within_seconds: float) -> bytes | None:
        """Return the next line; empty if the process ended, None on timeout."""
        assert self._process.stdout
        end, line = time.monotonic() + within_seconds, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                data = os.read(self._process.stdout.fileno(), MAX_ANSWER_BYTES)
                if not data:
                    return b""
                line += data
        return bytes(line)


class Workers:
    """Pool of `count` workers, started on first use and lent one at a time."""

    def __init__(self, count: int, limits: WorkerLimits | None = None) -> None:
        self.count = count
        self._limits = limits or WorkerLimits()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)

    def judge(self, check: TextCheck, response: str) -> Verdict:
        """Return a verdict; if the first worker crashes, the verdict of a second one.

        Raises:
            VerificationError: workers do not start.
        """
        for _ in range(2):
            # A crash may be caused by an earlier response, so one retry in a new process.
            with self._lend() as worker, contextlib.suppress(_WorkerExited):
                return worker.judge(check, response)
        return Verdict(Outcome.VERIFIER_FAILED, "two workers crashed on this response")

    def close(self) -> None:
        """Wait for all workers and kill them."""
        for _ in range(self.count):
            if worker := self._idle.get():
                worker.close()
            self._idle.put(None)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _lend(self) -> Iterator[Worker]:
        worker = self._idle.get()
        if worker is not None and not worker.is_usable:
            worker.close()
            worker = None
        try:
            worker = worker or Worker(self._limits)
            yield worker
        finally:
            if worker is not None and not worker.is_usable:
                worker.close()
                worker = None
            self._idle.put(worker)
