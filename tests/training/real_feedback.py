"""The real embedded feedback service as a process, for tests of training."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from infra.run.supervision.ports import free_port
from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from tests.services.feedback.samples import KEY, MASTER, correction, turn
from training.__main__ import main

BOOT_SECONDS, SINK_SECONDS, CALL_SECONDS = 120, 60, 30


class Service:
    """Client of `python -m services.feedback` on a state folder."""

    def __init__(self, state: Path, port: int, channel: grpc.Channel) -> None:
        self.state, self.port = state, port
        self._rows = dict.fromkeys((feedback_pb2.STREAM_TURNS, feedback_pb2.STREAM_FEEDBACK), 0)
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
        self.append(said)
        self.record(correction(words, f"better: {words}", words, caller), caller)

    def append(self, *turns: events_pb2.TurnEvent) -> None:
        """Send turns, and wait until they are committed."""
        self._stub.AppendTurns(feedback_pb2.AppendTurnsRequest(turns=turns), timeout=CALL_SECONDS)
        self.wait_for_rows(feedback_pb2.STREAM_TURNS, len(turns))

    def record(self, event: events_pb2.FeedbackEvent, caller: Caller) -> None:
        """Send the feedback of a caller, and wait until it is committed."""
        self._stub.RecordFeedback(
            feedback_pb2.RecordFeedbackRequest(event=event),
            timeout=CALL_SECONDS,
            metadata=_identity(caller),
        )
        self.wait_for_rows(feedback_pb2.STREAM_FEEDBACK, 1)

    def forbid(self, caller: Caller) -> None:
        request = feedback_pb2.SetPrincipalConsentRequest(training=False)
        self._stub.SetPrincipalConsent(request, timeout=CALL_SECONDS, metadata=_identity(caller))

    def erase(self, caller: Caller) -> None:
        self._stub.ErasePrincipal(
            feedback_pb2.ErasePrincipalRequest(), timeout=CALL_SECONDS, metadata=_identity(caller)
        )

    def command(self, *words: str) -> int:
        return main([*words, "--state", str(self.state), "--feedback", f"127.0.0.1:{self.port}"])

    def wait_for_rows(self, stream: "feedback_pb2.Stream.ValueType", more: int) -> None:
        """Wait until a stream has this number of rows more than after the last wait."""
        self._rows[stream] += more
        end = time.monotonic() + SINK_SECONDS
        while time.monotonic() < end:
            listed = self._stub.ListSegments(
                feedback_pb2.ListSegmentsRequest(stream=stream), timeout=CALL_SECONDS
            )
            if sum(segment.rows for segment in listed.segments) == self._rows[stream]:
                return
            time.sleep(0.05)
        raise AssertionError(f"no {self._rows[stream]} rows after {SINK_SECONDS} s")


def _identity(caller: Caller) -> tuple[tuple[str, str], ...]:
    return (("x-tw-tenant", caller.tenant), ("x-tw-user", caller.user))
