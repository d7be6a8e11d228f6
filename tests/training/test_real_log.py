"""Training with the real embedded feedback service: keys, consents, erasures, Parquet."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from infra.run.supervision.ports import free_port
from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from tests.services.feedback.samples import ADA, KEY, MASTER, correction, turn
from tests.training.state_folder import holding, printed_erasures
from training.__main__ import main
from training.data.feedback.judgements import Judgement
from training.data.feedback.snapshot import Snapshot, open_snapshot, read_judgements

BOB = Caller("acme", "bob")
pytestmark = pytest.mark.slow
BOOT_SECONDS, SINK_SECONDS, CALL_SECONDS = 120, 60, 30


class Service:
    """Client of `python -m services.feedback` on a state folder."""

    def __init__(self, state: Path, port: int, channel: grpc.Channel) -> None:
        self.state, self.port, self._events = state, port, 0
        self._stub: Any = feedback_pb2_grpc.FeedbackLogServiceStub(channel)

    @classmethod
    @contextmanager
    def started(cls, state: Path) -> Iterator["Service"]:
        port = free_port()
        values = {
            "PORT": port,
            "METRICS_PORT": 0,
            "PRINCIPAL_KEY": KEY,
            "MASTER_KEY": MASTER,
            "SPOOL_DIRECTORY": state / "spool",
            "OBJECT_DIRECTORY": state / "objects",
            "DATABASE_URL": f"sqlite:///{state}/ledger.db",
            "FLUSH_SECONDS": 0.1,
        }
        environment = os.environ | {
            f"TW_FEEDBACK_{name}": str(value) for name, value in values.items()
        }
        command = [sys.executable, "-m", "services.feedback"]
        with (
            subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process,
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            try:
                grpc.channel_ready_future(channel).result(BOOT_SECONDS)
                yield cls(state, port, channel)
            finally:
                process.terminate()

    def say(self, caller: Caller, words: str) -> None:
        """Send a turn with a correction, and wait until it is committed."""
        said = turn(f"answer to {words}", message=words)
        said.principal = principal_of(KEY, caller)
        said.finish_time.GetCurrentTime()
        said.context[0].text = f"question about {words}"
        better = correction(words, f"better: {words}", words, caller)
        self._stub.AppendTurns(feedback_pb2.AppendTurnsRequest(turns=[said]), timeout=CALL_SECONDS)
        self._stub.RecordFeedback(
            feedback_pb2.RecordFeedbackRequest(event=better),
            timeout=CALL_SECONDS,
            metadata=_identity(caller),
        )
        self._events += 1
        for stream in (feedback_pb2.STREAM_TURNS, feedback_pb2.STREAM_FEEDBACK):
            self._wait_for_rows(stream)

    def forbid(self, caller: Caller) -> None:
        request = feedback_pb2.SetPrincipalConsentRequest(training=False)
        self._stub.SetPrincipalConsent(request, timeout=CALL_SECONDS, metadata=_identity(caller))

    def erase(self, caller: Caller) -> None:
        self._stub.ErasePrincipal(
            feedback_pb2.ErasePrincipalRequest(), timeout=CALL_SECONDS, metadata=_identity(caller)
        )

    def command(self, *words: str) -> int:
        return main([*words, "--state", str(self.state), "--feedback", f"127.0.0.1:{self.port}"])

    def _wait_for_rows(self, stream: "feedback_pb2.Stream.ValueType") -> None:
        end = time.monotonic() + SINK_SECONDS
        while time.monotonic() < end:
            listed = self._stub.ListSegments(
                feedback_pb2.ListSegmentsRequest(stream=stream), timeout=CALL_SECONDS
            )
            if sum(segment.rows for segment in listed.segments) == self._events:
                return
            time.sleep(0.05)
        raise AssertionError(f"no {self._events} rows after {SINK_SECONDS} s")


def _identity(caller: Caller) -> tuple[tuple[str, str], ...]:
    return (("x-tw-tenant", caller.tenant), ("x-tw-user", caller.user))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service.started(tmp_path) as service:
        yield service


def test_consent_erasure_and_new_feedback_reach_training(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken() -> tuple[Snapshot, dict[str, Judgement]]:
        assert service.command("snapshot") == 0
        snapshot = open_snapshot(Path(capsys.readouterr().out.strip()))
        return snapshot, {
            judgement.correction or "": judgement for judgement in read_judgements(snapshot)
        }

    service.say(ADA, "herons")
    service.say(BOB, "kites")
    first, judged = taken()
    assert set(judged) == {"better: herons", "better: kites"}
    assert judged["better: herons"].context[0].content == "question about herons"
    assert judged["better: herons"].answer == "answer to herons"
    assert holding(service.state / "objects", "herons") == []

    service.forbid(BOB)
    second, judged = taken()
    assert set(judged) == {"better: herons"}
    assert second.manifest.report["dropped"] == {"no_consent": 2}

    service.erase(ADA)
    assert service.command("forget") == 0
    gone = sorted((first.id, second.id))
    assert printed_erasures(capsys.readouterr().out) == ["1", *gone]
    for words in ("herons", "kites", principal_of(KEY, ADA)):
        assert holding(service.state / "loop", words) == []

    service.say(ADA, "owls")
    third, judged = taken()
    assert set(judged) == {"better: owls"}
    assert third.manifest.report["dropped"] == {"erased": 2, "no_consent": 2}
    assert service.command("forget") == 0
    assert printed_erasures(capsys.readouterr().out) == []
