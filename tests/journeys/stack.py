"""Runs the complete embedded system like a user, in a folder of its own."""

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.run.embedded.environment import read_environment
from infra.service_table import service_table
from services.gateway.identity.key_commands import add_key_commands, run_key_command
from training.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
STOP_SECONDS = 120
# Users of this tenant have a request limit per minute. All others are unlimited.
FRUGAL_TENANT, FRUGAL_REQUESTS = "frugal", 2
EXPORT_EVERY_MS = "200"
# Option for tests whose few keys ask or rate more than a person.
WITHOUT_QUOTAS = ("--without-quotas",)
# Model of battles that no server has.
ABSENT_MODEL = "absent-1"


def shared_environment(spans_port: int) -> dict[str, str]:
    """Return the environment of the system shared by journeys and attacks.

    Args:
        spans_port: port of the receiver of spans.
    """
    overrides = {FRUGAL_TENANT: {"user_requests_per_minute": FRUGAL_REQUESTS}}
    endpoints = {
        f"TW_{service.name.upper()}_OTLP_ENDPOINT": f"http://127.0.0.1:{spans_port}"
        for service in service_table().grpc
    }
    return {
        "TW_GATEWAY_QUOTA_OVERRIDES": json.dumps(overrides),
        # Battles need two models; the system serves one version.
        "TW_REVIEW_EXTRA_MODELS": json.dumps([ABSENT_MODEL]),
        # The second reviewer of an item decides whether it is a disagreement.
        "TW_REVIEW_FURTHER_RATERS": "0",
        # A minute by default.
        "TW_REVIEW_ERASURE_SECONDS": "2",
        "OTEL_BSP_SCHEDULE_DELAY": EXPORT_EVERY_MS,
        **endpoints,
    }


@dataclass
class Stack:
    """A running system with its state folder, ports and supervisor."""

    state: Path
    ports: dict[str, int]
    supervisor: subprocess.Popen[str]
    lines: list[str]

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['gateway']}"

    @property
    def owner_key(self) -> str:
        return (self.state / "owner.key").read_text().strip()

    def make_keys(
        self, user: str, count: int = 1, tenant: str = "default", scopes: str = ""
    ) -> list[str]:
        """Create API keys with the product's command, with the default scopes or the given ones.

        The command runs in this process, because a new one takes two seconds.
        """
        parser = argparse.ArgumentParser()
        add_key_commands(parser, read_environment(self.state).keys_database)
        words = ["create", "--tenant", tenant, "--user", user, "--count", str(count)]
        words += ["--scopes", scopes] if scopes else []
        with contextlib.redirect_stdout(io.StringIO()) as printed, ThreadPoolExecutor(1) as thread:
            # In a separate thread, because Playwright's event loop may run in this one.
            assert (
                thread.submit(asyncio.run, run_key_command(parser.parse_args(words))).result() == 0
            )
        return printed.getvalue().split()

    def take_snapshot(self) -> Path:
        """Create a snapshot like `training snapshot`, in this process, where torch is imported."""
        words = [
            "snapshot",
            "--state",
            str(self.state),
            "--feedback",
            f"127.0.0.1:{self.ports['feedback']}",
            "--review",
            f"127.0.0.1:{self.ports['review']}",
        ]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(words) == 0
        return Path(printed.getvalue().strip())

    def rows(self, stream: str = "") -> list[dict[str, Any]]:
        """Return all rows of the object store, or of one stream.

        Compaction may replace files during the read, in which case the files are listed again.
        """
        while True:
            try:
                files = sorted((self.state / "objects" / stream).rglob("*.parquet"))
                return [row for file in files for row in pq.read_table(file).to_pylist()]
            except FileNotFoundError:
                continue

    def pid_of(self, service: str) -> int:
        """Return the process id of a supervised service."""
        for task in Path(f"/proc/{self.supervisor.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if f"services.{service}".encode() in command:
                    return int(child)
        raise LookupError(f"{service} does not run")

    def kill(self, service: str, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid_of(service), number)

    def wait_for_line(self, *texts: str, seconds: float = 60, since: int = 0) -> str:
        """Wait for a terminal line with all these texts. Returns the first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.supervisor.poll() is not None:
                end = min(end, time.monotonic() + 1)  # for its last lines
            for line in self.lines[since:]:
                if all(text in line for text in texts):
                    return line
            time.sleep(0.05)
        raise TimeoutError(f"no line with {texts}; the last ones: {self.lines[-15:]}")


@contextmanager
def running_stack(
    state: Path,
    model: str = "nano",
    how: str = "infra.run.embedded",
    options: Sequence[str] = (),
    start_seconds: float = START_SECONDS,
) -> Iterator[Stack]:
    """Run `make up` or `make stack`, without make, on free ports. Stopped by SIGINT.

    Args:
        how: module of the command.
        options: additional options of the command.
        start_seconds: time until the system is ready.
    """
    command = [sys.executable, "-m", how, "up", "--model", model, "--state", str(state)]
    supervisor = subprocess.Popen(
        [*command, "--port", "0", "--grpc-port", "0", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with follow(supervisor, state, start_seconds) as stack:
        yield stack


@contextmanager
def follow(supervisor: subprocess.Popen[str], state: Path, start_seconds: float) -> Iterator[Stack]:
    """Wait until a starting system is ready; at the end press Ctrl-C.

    Args:
        supervisor: process of the command in a session of its own, with a pipe as its output.
    """
    lines: list[str] = []
    collector = threading.Thread(target=_collect, args=(supervisor, lines), daemon=True)
    collector.start()
    stack = Stack(state, {}, supervisor, lines)
    try:
        stack.wait_for_line("/#key=", seconds=start_seconds)
        stack.ports = json.loads((state / "running.json").read_text())["ports"]
        yield stack
    finally:
        # The signal of a terminal reaches its whole process group.
        if supervisor.poll() is None:
            os.killpg(supervisor.pid, signal.SIGINT)
        try:
            supervisor.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(supervisor.pid, signal.SIGKILL)
            raise
        finally:
            collector.join()


def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout
    with process.stdout as output:
        for line in output:
            lines.append(line.rstrip())
