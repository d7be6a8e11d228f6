"""A bounded number of processes that judge free text, each killed when it takes too long or grows
too large.

A worker may have been broken by what it read, so one that did not answer in time is never asked
again.
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
from types import TracebackType

from training.verification.checks import Gym, TextCheck, to_mapping
from training.verification.verdict import Outcome, Verdict, VerificationError

ROOT = Path(__file__).parents[2]
MODULE = "training.verification.worker"
LONGEST_RESPONSE = 200_000  # characters that are handed on: the end, where answers are
LONGEST_ANSWER_BYTES = 10_000
_OUT_OF_TIME = Verdict(Outcome.OUT_OF_TIME, "the answer could not be judged in time")


@dataclass(frozen=True)
class WorkerLimits:
    """processor_seconds of one verdict decide, so that a busy machine changes none; wall_seconds
    end what only waits.
    """

    processor_seconds: int = 3
    wall_seconds: float = 30.0
    start_seconds: float = (
        180.0  # libraries are imported: 2 s alone, 30 s measured where seven others worked
    )
    growth_bytes: int = 512 * 2**20  # above what the libraries take


class _Gone(Exception):
    """The worker ended before it answered."""


class Worker:
    """One process: a line in, a line out."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
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
            stderr=self._complaints,
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for who asks
        )
        self._loaded: set[str] = set()

    def judge(self, check: TextCheck, response: str) -> Verdict:
        """Raises: VerificationError: the worker does not start; _Gone: it crashed. Either way it is
        of no more use.
        """
        described = to_mapping(check)
        self._load(check)
        self._write({"check": described, "response": response[-LONGEST_RESPONSE:]})
        answer = self._line(self._limits.wall_seconds)
        if answer is None:
            self.close()
            return _OUT_OF_TIME
        if answer:
            said = json.loads(answer)
            return Verdict(Outcome(said["outcome"]), said["reason"])
        if self._process.wait() == -SIGXCPU:
            return _OUT_OF_TIME
        raise _Gone(f"a worker ended with {self._process.returncode}")

    @property
    def is_usable(self) -> bool:
        """Whether it may be asked again."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _load(self, check: TextCheck) -> None:
        needed = check.generator if isinstance(check, Gym) else type(check).__name__
        if needed in self._loaded:
            return
        self._write({"load": to_mapping(check)})
        if not self._line(self._limits.start_seconds):
            self._process.kill()
            self._process.wait()
            self._complaints.seek(0)
            said = self._complaints.read()[-400:].decode(errors="replace")
            raise VerificationError(
                f"a worker of the verifier does not start: {said}", field="worker", reason="STOPPED"
            )
        self._loaded.add(needed)

    def _write(self, request: dict[str, object]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it ended; what it left to read says so
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()

    def _line(self, within_seconds: float) -> bytes | None:
        """Its next line; empty if it ended, None if it says nothing in time."""
        assert self._process.stdout
        end, line = time.monotonic() + within_seconds, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                data = os.read(self._process.stdout.fileno(), LONGEST_ANSWER_BYTES)
                if not data:
                    return b""
                line += data
        return bytes(line)


class Workers:
    """So many of them, lent one at a time; they start when they are first needed."""

    def __init__(self, count: int, limits: WorkerLimits | None = None) -> None:
        self.count = count
        self._limits = limits or WorkerLimits()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)

    def judge(self, check: TextCheck, response: str) -> Verdict:
        """A verdict; of a worker that crashed, the verdict of a second one.

        Raises:
            VerificationError: workers do not start here.
        """
        for _ in range(2):
            with self._one() as worker, contextlib.suppress(_Gone):
                return worker.judge(check, response)
        return Verdict(Outcome.VERIFIER_FAILED, "two workers in turn crashed on it")

    def close(self) -> None:
        """Kill those that are idle: nobody may be asking any more."""
        for _ in range(self.count):
            if worker := self._idle.get():
                worker.close()
            self._idle.put(None)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _one(self) -> Iterator[Worker]:
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
