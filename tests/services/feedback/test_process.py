"""Real process: kill -9 right after an acknowledgement, and the audit of the result."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from infra.run.supervision.ports import free_port
from services.feedback.__main__ import main
from services.feedback.lake.ledger import Ledger
from services.feedback.store.database import open_database
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import KEY, MASTER, name, thumb, turn

IDENTITY = (("x-tw-tenant", "acme"), ("x-tw-user", "ada"))
BOOT_SECONDS = 60


class Service:
    """Process of `python -m services.feedback` in its own folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def settings(self) -> dict[str, str]:
        values = {
            "PORT": self.port,
            "METRICS_PORT": 0,
            "PRINCIPAL_KEY": KEY,
            "MASTER_KEY": MASTER,
            "SPOOL_DIRECTORY": self.root / "spool",
            "OBJECT_DIRECTORY": self.root / "objects",
            "DATABASE_URL": f"sqlite:///{self.root}/ledger.db",
            "FLUSH_SECONDS": 600,
        }
        return {f"TW_FEEDBACK_{key}": str(value) for key, value in values.items()}

    def start(self) -> feedback_pb2_grpc.FeedbackLogServiceStub:
        command = [sys.executable, "-m", "services.feedback"]
        self.process = subprocess.Popen(
            command, env=os.environ | self.settings(), stderr=subprocess.DEVNULL
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        grpc.channel_ready_future(self.channel).result(timeout=BOOT_SECONDS)
        return feedback_pb2_grpc.FeedbackLogServiceStub(self.channel)

    def stop(self, signal_number: int) -> int:
        assert self.process is not None
        self.process.send_signal(signal_number)
        code = self.process.wait(timeout=30)
        self.process = None
        self.channel.close()
        return code


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    if service.process:
        service.process.kill()
        service.process.wait()
        service.channel.close()


def record(stub: Any, event: events_pb2.FeedbackEvent) -> None:
    stub.RecordFeedback(
        feedback_pb2.RecordFeedbackRequest(event=event), timeout=10, metadata=IDENTITY
    )


def committed(root: Path, stream: str) -> list[str]:
    """Return the committed event ids in the reader's order."""
    engine = open_database(f"sqlite:///{root}/ledger.db")
    objects = [root / "objects" / segment.object_key for segment in Ledger(engine).segments(stream)]
    engine.dispose()
    return [str(row["event_id"]) for path in objects for row in decode(path.read_bytes())]


@pytest.mark.slow
def test_kill_9_right_after_an_acknowledgement_loses_no_event(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = service.start()
    stub.AppendTurns(feedback_pb2.AppendTurnsRequest(turns=[turn(message="m")]), timeout=10)
    record(stub, thumb("first", message="m"))
    record(stub, thumb("last", up=False, message="n"))
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    assert not (service.root / "objects").exists(), "the spool alone must have held the events"

    stub = service.start()
    request = feedback_pb2.GetThumbsRequest(message_ids=[name("m"), name("n")])
    thumbs = stub.GetThumbs(request, timeout=10, metadata=IDENTITY).thumbs
    assert dict(thumbs) == {name("m"): True, name("n"): False}
    record(stub, thumb("last", up=False, message="n", at=9_999))

    monkeypatch.setattr(sys, "argv", ["feedback", "audit"])
    for key, value in service.settings().items():
        monkeypatch.setenv(key, value)
    assert main() == 0
    assert "waiting=2" in capsys.readouterr().out, "the audit works beside the service"

    assert service.stop(signal.SIGTERM) == 0
    assert committed(service.root, "feedback") == [
        thumb("first").event_id,
        thumb("last", message="n").event_id,
    ]
    assert committed(service.root, "turns") == [turn(message="m").event_id]
    assert main() == 0

    (path,) = (service.root / "objects" / "feedback").rglob("*.parquet")
    path.unlink()
    capsys.readouterr()
    assert main() == 1
    assert path.relative_to(service.root / "objects").as_posix() in capsys.readouterr().out
