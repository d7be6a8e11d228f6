"""`make stack` as started by a new user: two gateways, a killed broker, and a complete audit."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.client import Client, finish_of, text_of
from tests.journeys.stack import ROOT, Stack, running_stack

SETTLED_SECONDS = 90


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path / "state", how="infra.run.stack") as running:
        yield running


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_gateways_on_real_servers_agree_and_lose_no_acknowledged_data(
    real: Stack,
) -> None:
    one, other = (
        Client(f"http://127.0.0.1:{real.ports[name]}", real.owner_key)
        for name in ("http", "http_2")
    )

    asked = one.ask("hello")
    answer, conversation = asked[0]["messageId"], asked[0]["started"]["conversationId"]
    again = list(other.events("GET", f"/api/messages/{answer}/events?after=0"))
    assert text_of(again) == text_of(asked) != ""
    assert finish_of(again) == "FINISH_REASON_STOP"

    # The last thumb is current at once in both replicas, independent of the accepting one.
    acked = [(one, other)[number % 2].thumb(answer, up=number % 3 == 0) for number in range(8)]
    assert [client.conversation(conversation)[-1].get("thumbUp") for client in (one, other)] == [
        False,
        False,
    ]

    # Without the broker, thumbs are accepted and published later.
    kill_kafka(real)
    acked += [(one, other)[number % 2].thumb(answer, up=True) for number in range(8)]
    real.wait_for_line("kafka ", "SIGKILL")
    real.kill("session")
    assert finish_of(other.ask("how are you")) == "FINISH_REASON_STOP", (
        "one replica of session is left"
    )

    settled_audit(real, feedback=len(set(acked)), turns=2)
    # A replica that loses its partition between object and commit leaves an orphan, invisible to
    # readers.
    tended = as_operator(real, "orphans", "--delete", "--older-than", "0s").stdout.splitlines()
    assert re.fullmatch(r"orphans=(\d+) dead=\1 deleted=\1", tended[-1]), tended
    audited = as_operator(real, "audit")
    assert audited.returncode == 0, audited.stdout
    assert audited.stdout.splitlines()[-1].startswith("orphans=0 ")


def kill_kafka(stack: Stack) -> None:
    """Kill the broker of this stack, found by its folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"kafka.Kafka" in words and any(str(stack.state).encode() in word for word in words):
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise LookupError("no broker runs")


def settled_audit(stack: Stack, **rows: int) -> None:
    """Wait until the ledger has these rows and no offset is pending.

    The audit must find no problem.
    """
    end = time.monotonic() + SETTLED_SECONDS
    while True:
        done = as_operator(stack, "audit")
        lines = done.stdout.strip().splitlines()
        found = {stream: sum(_figures(lines, stream, "rows")) for stream in rows}
        waiting = sum(sum(_figures(lines, stream, "waiting")) for stream in rows)
        if found == rows and not waiting:
            assert done.returncode == 0, done.stdout
            return
        assert time.monotonic() < end, (
            f"{found} of {rows}, {waiting} waiting: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
        time.sleep(1)


def as_operator(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m services.feedback …` with the settings of a running replica."""
    environment = Path(f"/proc/{stack.pid_of('feedback')}/environ").read_text().split("\0")
    settings = dict(pair.split("=", 1) for pair in environment if pair.startswith("TW_FEEDBACK_"))
    command = [sys.executable, "-m", "services.feedback", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def _figures(lines: list[str], stream: str, name: str) -> list[int]:
    return [
        int(re.search(rf"{name}=(\d+)", line)[1])
        for line in lines
        if line.startswith(f"{stream} topic=")
    ]
