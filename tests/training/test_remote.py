"""gRPC clients of the loop against real gRPC servers with hand-written fakes."""

import time
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from infra.machine.certificates.authority import (
    Authority,
    CertificatePair,
    issue_certificates,
    tls_settings,
    write_pair,
)
from sequential.figures import RateSums, VersionFigures
from tests.support.errors import refused
from training import remote, service_channel
from training.data.feedback.events import Erasure
from training.data.feedback.rows import DataKey
from training.evaluation.canary import Verdict
from training.evaluation.canary_run import CandidateState
from training.remote import FeedbackLog, RolloutClient
from training.service_channel import DeadlineError, RemoteError, TlsFiles

REFUSAL = "another candidate is there"
SINCE = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Log(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """Fake with two segments on a page each, and feedback on versions.

    The first call of each method fails as if the service restarted.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.restarting = True
        self.compacted = False
        self.feedback: Any = feedback_pb2.VersionFeedback(model_version="nano-1")

    def ListSegments(self, request, context):
        self.asked.append(request)
        if self.restarting:
            self.restarting = False
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        if request.after_sequence >= 2:
            return feedback_pb2.ListSegmentsResponse()
        sequence = request.after_sequence + 1  # one segment per page
        if self.compacted and sequence == 2:
            cover = feedback_pb2.Segment(first_sequence=1, sequence=2, object_key="c", rows=10)
            return feedback_pb2.ListSegmentsResponse(segments=[cover])
        segment = feedback_pb2.Segment(
            sequence=sequence,
            topic_id="t",
            start_offset=5 * sequence - 5,
            end_offset=5 * sequence,
            object_key="k",
            rows=5,
        )
        return feedback_pb2.ListSegmentsResponse(segments=[segment])

    def GetVersionFeedback(self, request, context):
        """Return the feedback on the first version, or fail as the earliest releases do."""
        if self.feedback is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown call")
        self.asked.append(request)
        found = [
            self.feedback if number == 0 else feedback_pb2.VersionFeedback(model_version=version)
            for number, version in enumerate(request.model_versions)
        ]
        return feedback_pb2.GetVersionFeedbackResponse(versions=found)

    def GetDataKeys(self, request, context):
        """Return consent for all principals except p1; p2 is unknown."""
        self.asked.append(request)
        keys = {
            name: feedback_pb2.DataKey(consent=name != "p1", key_id=b"i" * 16, key=b"k" * 32)
            for name in request.principals
            if name != "p2"
        }
        return feedback_pb2.GetDataKeysResponse(keys=keys)

    def ListErasures(self, request, context):
        self.asked.append(request)
        numbers = range(
            request.after_number + 1, min(request.after_number + 2, 5) + 1
        )  # two entries per page, five in total
        entries = [
            feedback_pb2.ErasedPrincipal(
                number=n, principal=f"p{n}", erasure=feedback_pb2.Erasure(erasure_id=f"e{n}")
            )
            for n in numbers
        ]
        return feedback_pb2.ListErasuresResponse(erasures=entries)


class Rollout(generator_pb2_grpc.RolloutServiceServicer):
    """Fake that records requests; another candidate is active."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.halt = ""
        self.loads_slowly = 0
        self.traffic: list[Any] | None = []

    def GetRollout(self, request, context):
        candidate = generator_pb2.ServedVersion(
            version="nano-1", state=generator_pb2.VERSION_STATE_FAILED, reason="no memory"
        )
        stable = generator_pb2.ServedVersion(
            version="nano-0", state=generator_pb2.VERSION_STATE_READY
        )
        if self.halt:
            halt = generator_pb2.RolloutHalt(operator="ada", reason=self.halt)
            kinds = ("started", "promoted", "watch_rolled_back")
            history = [
                generator_pb2.RolloutChange(kind=kind, version=f"nano-{number}", reason=kind)
                for number, kind in enumerate(kinds)
            ]
            watch = generator_pb2.RolloutWatch(
                previous=generator_pb2.ServedVersion(version="nano-9")
            )
            return generator_pb2.GetRolloutResponse(
                stable=stable, halt=halt, history=history, watch=watch
            )
        return generator_pb2.GetRolloutResponse(stable=stable, candidate=candidate)

    def GetVersionTraffic(self, request, context):
        """Return traffic, or none as an earlier release."""
        if self.traffic is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "versions")
        if self.traffic == []:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown call")
        self.asked.append(request)
        return generator_pb2.GetVersionTrafficResponse(versions=self.traffic)

    def StartCanary(self, request, context):
        if self.loads_slowly:
            self.loads_slowly -= 1
            self.asked.append(request)
            time.sleep(1.0)
            return generator_pb2.StartCanaryResponse()
        return context.abort(grpc.StatusCode.FAILED_PRECONDITION, REFUSAL)

    def PromoteCanary(self, request, context):
        self.asked.append(request)
        return generator_pb2.PromoteCanaryResponse()

    def RollBackCanary(self, request, context):
        self.asked.append(request)
        return generator_pb2.RollBackCanaryResponse()


@pytest.fixture
def servers() -> Iterator[tuple[str, Log, Rollout]]:
    server = grpc.server(futures.ThreadPoolExecutor(16))
    log, rollout = Log(), Rollout()
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(log, server)
    generator_pb2_grpc.add_RolloutServiceServicer_to_server(rollout, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", log, rollout
    server.stop(0).wait()


def test_all_segment_pages_are_listed_across_a_restart(servers) -> None:
    target, log, _ = servers
    client = FeedbackLog(target)
    segments = client.turn_segments()
    assert [(s.object_key, s.start_offset, s.end_offset, s.rows) for s in segments] == [
        ("k", 0, 5, 5),
        ("k", 5, 10, 5),
    ]
    assert [request.after_sequence for request in log.asked] == [0, 0, 1, 2]
    assert log.asked[0].stream == feedback_pb2.STREAM_TURNS
    client.close()


def test_segments_compacted_between_pages_replace_earlier_ones(servers) -> None:
    target, log, _ = servers
    log.compacted = True
    client = FeedbackLog(target)
    assert [(s.first_sequence, s.sequence, s.is_compacted) for s in client.turn_segments()] == [
        (1, 2, True)
    ]
    client.close()


def test_keys_are_requested_for_1000_principals_per_call(servers) -> None:
    target, log, _ = servers
    client = FeedbackLog(target)
    keys = client.data_keys([f"p{number}" for number in range(2001)])
    assert [len(request.principals) for request in log.asked] == [1000, 1000, 1]
    assert len(keys) == 2000
    assert keys["p0"] == DataKey(True, b"i" * 16, b"k" * 32)
    assert not keys["p1"].consent
    assert "p2" not in keys
    assert client.data_keys([]) == {}
    assert len(log.asked) == 3
    client.close()


def test_all_erasure_pages_after_a_number_are_listed(servers) -> None:
    target, log, _ = servers
    client = FeedbackLog(target)
    assert client.erasures(1) == [
        Erasure(number, f"p{number}", f"e{number}") for number in (2, 3, 4, 5)
    ]
    assert [request.after_number for request in log.asked] == [1, 3, 5]
    client.close()


def test_feedback_and_traffic_are_read_by_version(servers) -> None:
    target, log, rollout = servers
    log.feedback = feedback_pb2.VersionFeedback(
        model_version="nano-1",
        users_up=6,
        user_thumbs=[
            feedback_pb2.UserThumbs(up=3, down=1, users=2),
            feedback_pb2.UserThumbs(up=15, down=5, users=1),
            feedback_pb2.UserThumbs(up=0, down=1, users=4),
            feedback_pb2.UserThumbs(up=0, down=1, users=4, weight=0.5),
            feedback_pb2.UserThumbs(up=1, down=0, users=90, weight=0.0),
        ],
        rates=[feedback_pb2.RateSums(name="refused", users=3, trials=9, events=2)],
    )
    rollout.traffic = [
        generator_pb2.VersionTraffic(
            version="nano-1", requests=7, errors=1, first_text_ms_bins={120: 6}
        )
    ]
    feedback, generator = FeedbackLog(target), RolloutClient(target)
    assert feedback.version_feedback(("nano-1", "nano-0"), SINCE) == {
        "nano-1": VersionFigures(
            user_shares={0.75: 3, 0.0: 6},
            rates={"refused": RateSums(users=3, trials=9, events=2)},
        ),
        "nano-0": VersionFigures(),
    }
    assert log.asked[-1].since.ToDatetime(UTC) == SINCE
    assert generator.traffic(("nano-1", "nano-0")) == {
        "nano-1": VersionFigures(requests=7, errors=1, first_text_ms={120: 6})
    }
    assert list(rollout.asked[-1].versions) == ["nano-1", "nano-0"]
    feedback.close()
    generator.close()


def test_services_without_the_counts_leave_rows_empty_and_are_logged_once(
    servers, caplog: pytest.LogCaptureFixture
) -> None:
    target, log, _ = servers
    log.feedback = None
    feedback, generator = FeedbackLog(target), RolloutClient(target)
    for _ in range(2):
        assert feedback.version_feedback(("nano-1",), SINCE) == {}
        assert generator.traffic(("nano-1",)) == {}
    assert [
        record.args for record in caplog.records if record.name == "training.service_channel"
    ] == [
        ("feedback", "GetVersionFeedback"),
        ("generator", "GetVersionTraffic"),
    ]
    feedback.close()
    generator.close()


def test_counts_by_majority_of_an_earlier_service_are_not_shares(servers) -> None:
    target, log, _ = servers
    log.feedback = feedback_pb2.VersionFeedback(model_version="nano-1", users_up=6, users_down=1)
    feedback = FeedbackLog(target)
    assert feedback.version_feedback(("nano-1",), SINCE) == {"nano-1": VersionFigures()}
    feedback.close()


def test_other_errors_of_the_counts_are_raised(servers) -> None:
    target, _, rollout = servers
    rollout.traffic = None
    generator = RolloutClient(target)
    with refused(RemoteError, field="generator", reason="INVALID_ARGUMENT"):
        generator.traffic(("nano-1",))
    generator.close()


def test_halt_and_rollbacks_of_the_watch_are_read(servers) -> None:
    target, _, rollout = servers
    client = RolloutClient(target)
    assert client.view().halt is None
    assert client.view().previous == ""
    rollout.halt = "odd answers"
    assert (client.view().halt, client.view().candidate) == ("odd answers", "")
    assert client.view().undone == {"nano-2": "watch_rolled_back"}
    assert client.view().previous == "nano-9"
    client.close()


def test_rollout_is_read_and_finished(servers) -> None:
    target, _, rollout = servers
    client = RolloutClient(target)
    view = client.view()
    assert (view.stable, view.state_of("nano-1"), view.candidate_reason) == (
        "nano-0",
        CandidateState.FAILED,
        "no memory",
    )
    client.finish("nano-1", Verdict.ROLL_BACK, "x" * 900)
    client.finish("nano-1", Verdict.PROMOTE, "better")
    assert [len(request.reason) for request in rollout.asked] == [500, 6]
    with pytest.raises(ValueError, match=Verdict.WAIT):
        client.finish("nano-1", Verdict.WAIT, "")
    assert len(rollout.asked) == 2
    client.close()


def test_error_contains_the_service_and_its_message(servers) -> None:
    target, _, _ = servers
    client = RolloutClient(target)
    with refused(RemoteError, field="generator", reason="FAILED_PRECONDITION") as caught:
        client.start("nano-1", Path("models/nano-1"), 0.5, 60)
    assert target in str(caught.value)
    assert REFUSAL in str(caught.value)
    client.close()


def test_start_is_repeated_if_a_version_loads_longer_than_a_call(
    servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, _, rollout = servers
    monkeypatch.setattr(remote, "LOAD_SECONDS", 0.2)
    rollout.loads_slowly = 2
    client = RolloutClient(target)
    with refused(
        RemoteError, field="generator", reason="FAILED_PRECONDITION"
    ):  # the error after all calls
        client.start("nano-1", Path("models/nano-1"), 0.5, 60)
    assert [request.version for request in rollout.asked] == ["nano-1", "nano-1"]
    rollout.loads_slowly = remote.MOST_CALLS_A_LOAD + 1
    with refused(DeadlineError, field="generator", reason="DEADLINE_EXCEEDED"):
        client.start("nano-1", Path("models/nano-1"), 0.5, 60)
    assert len(rollout.asked) == 2 + remote.MOST_CALLS_A_LOAD
    client.close()


def test_error_names_the_unreachable_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        service_channel, "OPTIONS", []
    )  # eight seconds of retries, which the loop's own test covers
    client = FeedbackLog("127.0.0.1:1")
    with refused(RemoteError, field="feedback", reason="UNAVAILABLE") as caught:
        client.turn_segments()
    assert "127.0.0.1:1" in str(caught.value)
    client.close()


def test_mutual_tls_authenticates_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        service_channel, "OPTIONS", []
    )  # no retries: a rejected connection stays rejected
    issue_certificates(tmp_path, ("feedback", "training"), 1)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    log = Log()
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(log, server)
    pair = ((tmp_path / "feedback.key").read_bytes(), (tmp_path / "feedback.pem").read_bytes())
    authority = (tmp_path / "authority.pem").read_bytes()
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([pair], authority, True)
    )
    server.start()
    target, tls = f"127.0.0.1:{port}", TlsFiles(*tls_settings(tmp_path, "training").values())
    client, stranger, mistaken = (
        FeedbackLog(target, tls),
        FeedbackLog(target),
        RolloutClient(target, tls),
    )
    assert client.version_feedback(("nano-1",), SINCE)
    # Neither a plaintext call, nor a client that expects another service.
    for call in (lambda: stranger.version_feedback(("nano-1",), SINCE), mistaken.view):
        with refused(RemoteError, reason="UNAVAILABLE"):
            call()
    for channel in (client, stranger, mistaken):
        channel.close()
    server.stop(0).wait()
    with refused(RemoteError, field="--tls", reason="UNREADABLE"):
        FeedbackLog(
            target,
            TlsFiles(tmp_path / "none.pem", tmp_path / "none.key", tmp_path / "authority.pem"),
        )


def test_replaced_certificate_is_used_by_the_next_call(tmp_path: Path) -> None:
    issue_certificates(tmp_path, ("feedback", "training"), 1)
    seen: list[bytes] = []

    class RecordingLog(Log):
        def GetVersionFeedback(self, request, context):
            seen.extend(context.auth_context()["x509_pem_cert"])
            return super().GetVersionFeedback(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(RecordingLog(), server)
    pair = ((tmp_path / "feedback.key").read_bytes(), (tmp_path / "feedback.pem").read_bytes())
    authority = CertificatePair(
        (tmp_path / "authority.pem").read_bytes(), (tmp_path / "authority.key").read_bytes()
    )
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([pair], authority.certificate, True)
    )
    server.start()
    certificate = tmp_path / "training.pem"
    client = FeedbackLog(
        f"127.0.0.1:{port}", TlsFiles(*tls_settings(tmp_path, "training").values())
    )
    expected = []
    try:
        for _ in range(2):
            client.version_feedback(("nano-1",), SINCE)
            expected.append(certificate.read_bytes())
            write_pair(tmp_path, "training", Authority(authority).issue("training", 1))
        certificate.unlink()  # being replaced: the channel stays in use
        client.version_feedback(("nano-1",), SINCE)
        assert seen == [*expected, expected[-1]]
        assert expected[0] != expected[1]
    finally:
        client.close()
        server.stop(0).wait()


def test_unavailable_service_is_awaited_up_to_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_channel, "OPTIONS", [])  # no retries by gRPC itself
    monkeypatch.setattr(service_channel, "AGAIN_SECONDS", 0.05)
    log = Log()  # fails once as if restarting
    server = grpc.server(futures.ThreadPoolExecutor(1))
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(log, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with refused(RemoteError, field="feedback", reason="UNAVAILABLE"):
            FeedbackLog(f"127.0.0.1:{port}").feedback_segments()
        log.restarting = True
        assert len(FeedbackLog(f"127.0.0.1:{port}", timeout_seconds=30).feedback_segments()) == 2
    finally:
        server.stop(0).wait()
