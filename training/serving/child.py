"""Model server as a child process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from training.serving.connection import CONNECT_SECONDS, MAX_ERROR_CHARACTERS, EndpointError

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS, POLL_SECONDS = 60.0, 0.1
PR_SET_PDEATHSIG = 1
# Loaded before a fork, after which a library of a process with threads must not be loaded.
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Child:
    """A started server and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_ready(
        self, url: Callable[[], str | None], path: str, seconds: float, reason: Callable[[], str]
    ) -> str:
        """Return the address of the server when it answers `path` with 200.

        Args:
            url: returns the address, or None as long as it is unknown.
            reason: returns why the server ended, "" for the last line of its log.

        Raises:
            EndpointError: the process ended, with the reason; or the time is over.
        """
        end = time.monotonic() + seconds
        with urllib3.PoolManager(retries=False, timeout=CONNECT_SECONDS) as http:
            while time.monotonic() < end:
                if self.process.poll() is not None:
                    lines = self.log.read_text(errors="replace").strip().splitlines()
                    told = reason() or next(reversed(lines), "no reason")
                    raise EndpointError(
                        f"the model server for the model ended: {told[:MAX_ERROR_CHARACTERS]}",
                        field="model",
                        reason="NOT_SERVED",
                    )
                if (address := url()) is not None:
                    # The process may end, or not listen yet.
                    with suppress(HTTPError):
                        if http.request("GET", address + path).status == 200:
                            return address
                time.sleep(POLL_SECONDS)
        raise EndpointError(
            "the model server for the model is not ready", field="model", limit=f"{seconds:g} s"
        )


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Child]:
    """Run a server in the block; it also ends if this process is killed.

    Args:
        environment: additional variables; those of Thumbwheel's services (TW_*) are not passed on.
    """
    passed = {name: value for name, value in os.environ.items() if name[:3] != "TW_"}
    with log.open("wb") as opened:
        process = subprocess.Popen(  # noqa: S603 - the trainer's own command
            command,
            cwd=ROOT,
            env={**passed, **environment},
            stdout=opened,
            stderr=opened,
            # A group of its own: Ctrl-C reaches only the trainer, which stops the server after the
            # current step, and the server's own children can be killed with it.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        yield Child(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
