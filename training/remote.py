"""gRPC clients of the loop for the feedback service and the generator's rollout.

The only module of training that imports grpc.

Every call has a deadline and may be repeated, so a restart of a service costs a retry and not the
run. `timeout_seconds` covers longer outages and names that cannot be resolved.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import duration_pb2, timestamp_pb2
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from sequential.figures import RateSums, VersionFigures
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import Erasure
from training.data.feedback.rows import DataKey
from training.errors import UnavailableError
from training.evaluation.canary import Thumbs, Verdict
from training.evaluation.canary_run import CandidateState, RolloutView
from training.service_identity import TOKEN_SECONDS, ServiceIdentity

log = logging.getLogger(__name__)

CALL_SECONDS = 20.0
# StartCanary answers when the version is ready. Each call waits less than the longest deadline that
# a service allows, and is repeated for up to two hours. The generator itself ends a load after its
# `load_seconds`.
LOAD_SECONDS, MOST_CALLS_A_LOAD = 840.0, 9
AGAIN_SECONDS = 1.0
MAX_REASON_CHARACTERS = 500  # the limit of RolloutService
MAX_PRINCIPALS = 1_000  # limit of GetDataKeys per call
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = [
    ("grpc.service_config", json.dumps(RETRIES)),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
STATES = {
    generator_pb2.VERSION_STATE_LOADING: CandidateState.LOADING,
    generator_pb2.VERSION_STATE_READY: CandidateState.READY,
    generator_pb2.VERSION_STATE_FAILED: CandidateState.FAILED,
}


class RemoteError(UnavailableError):
    """A service is unreachable or rejected a call; the text names service, address and cause."""

    reason = "UNREACHABLE"


class DeadlineError(RemoteError):
    """A call missed its deadline; its effect may still happen."""

    reason = "DEADLINE_EXCEEDED"


@dataclass(frozen=True)
class TlsFiles:
    """Client certificate, key and trusted authorities of training."""

    certificate: Path
    key: Path
    authority: Path

    def read(self) -> Sequence[bytes]:
        """Return the bytes of authority, key and certificate, all of the same generation.

        Raises:
            RemoteError: a file cannot be read.
        """
        try:
            found = self._read()
            # The kubelet replaces all files at once, but possibly between two reads of this loop.
            while (again := self._read()) != found:
                found = again
        except OSError as error:
            raise RemoteError(
                f"the files of --tls cannot be read: {error}", field="--tls", reason="UNREADABLE"
            ) from error
        return found

    def _read(self) -> Sequence[bytes]:
        return [file.read_bytes() for file in (self.authority, self.key, self.certificate)]


class ServiceChannel:
    """Channel to a service; with TLS, opened again after a change of the certificate files.

    A run can last longer than a certificate. Replaced channels stay open until `close`, because
    another thread may have a call on them.

    Args:
        identity: signs the calls; None sends calls without a token.
    """

    def __init__(
        self,
        target: str,
        service: str,
        tls: TlsFiles | None,
        identity: ServiceIdentity | None = None,
    ) -> None:
        self._target, self._service, self._tls = target, service, tls
        self._identity = identity
        self._files: Sequence[bytes] = tls.read() if tls else ()
        self._channels = [self._open()]

    def current(self) -> grpc.Channel:
        """Return the channel with the present certificate."""
        if self._tls:
            # Files that cannot be read now are being replaced; the next call reads them.
            with suppress(RemoteError):
                if (files := self._tls.read()) != self._files:
                    self._files = files
                    self._channels.append(self._open())
        return self._channels[-1]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def _open(self) -> grpc.Channel:
        channel = self._open_unsigned()
        if not self._identity:
            return channel
        return grpc.intercept_channel(channel, _SigningInterceptor(self._identity))

    def _open_unsigned(self) -> grpc.Channel:
        if not self._tls:
            return grpc.insecure_channel(self._target, options=OPTIONS)
        # gRPC clients compare DNS names only, see services/chassis/mutual_tls.py.
        options = [*OPTIONS, ("grpc.ssl_target_name_override", f"{self._service}.thumbwheel")]
        return grpc.secure_channel(
            self._target, grpc.ssl_channel_credentials(*self._files), options
        )


class _CallDetails(NamedTuple):
    """Details of a call, with the fields of `grpc.ClientCallDetails`."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _SigningInterceptor(grpc.UnaryUnaryClientInterceptor):
    """Interceptor with a token for each call."""

    def __init__(self, identity: ServiceIdentity) -> None:
        self._identity = identity

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        token = self._identity.metadata(details.method)
        present = _CallDetails(*(getattr(details, name) for name in _CallDetails._fields))
        metadata = (*(present.metadata or ()), token)
        return continuation(present._replace(metadata=metadata), request)


class FeedbackLog:
    """Client of FeedbackLogService: segments, data keys, erasures and counts of thumbs."""

    def __init__(
        self,
        target: str,
        tls: TlsFiles | None = None,
        timeout_seconds: float = 0.0,
        identity: ServiceIdentity | None = None,
    ) -> None:
        self._target, self._patience_seconds = target, timeout_seconds
        self._channel = ServiceChannel(target, "feedback", tls, identity)
        self._unknown = UnknownCall("feedback", "GetVersionFeedback")

    def feedback_segments(self) -> Sequence[Segment]:
        return self._segments(feedback_pb2.STREAM_FEEDBACK)

    def turn_segments(self) -> Sequence[Segment]:
        return self._segments(feedback_pb2.STREAM_TURNS)

    def data_keys(self, principals: Sequence[str]) -> dict[str, DataKey]:
        """Return consent and key of each principal that the service knows."""
        found: dict[str, DataKey] = {}
        for start in range(0, len(principals), MAX_PRINCIPALS):
            request = feedback_pb2.GetDataKeysRequest(
                principals=principals[start : start + MAX_PRINCIPALS]
            )
            reply = self._call(partial(self._stub.GetDataKeys, request, timeout=CALL_SECONDS))
            found |= {
                name: DataKey(key.consent, key.key_id, key.key) for name, key in reply.keys.items()
            }
        return found

    def erasures(self, after: int) -> Sequence[Erasure]:
        """Return all entries of the erasure ledger after this number."""
        found: list[Erasure] = []
        while True:
            request = feedback_pb2.ListErasuresRequest(
                after_number=found[-1].number if found else after
            )
            reply = self._call(partial(self._stub.ListErasures, request, timeout=CALL_SECONDS))
            if not reply.erasures:
                return found
            found += [
                Erasure(entry.number, entry.principal, entry.erasure.erasure_id)
                for entry in reply.erasures
            ]

    def count(self, since: datetime) -> dict[str, Thumbs]:
        """Return the users by version, each by the majority of the current thumbs.

        Only answers since this time count. Pinned answers are not counted, because they express no
        preference between arms.
        """
        stamp = timestamp_pb2.Timestamp()
        stamp.FromDatetime(since)
        request = feedback_pb2.CountThumbsRequest(since=stamp, users=True)
        reply = self._call(lambda: self._stub.CountThumbs(request, timeout=CALL_SECONDS))
        found: dict[str, Thumbs] = {}
        for row in reply.counts:
            if row.arm != "pinned":
                before = found.get(row.model_version, Thumbs())
                found[row.model_version] = Thumbs(
                    before.up + row.users_up, before.down + row.users_down
                )
        return found

    def rates(self, versions: Sequence[str], since: datetime) -> dict[str, dict[str, RateSums]]:
        """Return rates by version of answers since this time; empty with an earlier service."""
        stamp = timestamp_pb2.Timestamp()
        stamp.FromDatetime(since)
        request = feedback_pb2.GetVersionFeedbackRequest(model_versions=versions, since=stamp)
        try:
            reply = self._call(lambda: self._stub.GetVersionFeedback(request, timeout=CALL_SECONDS))
        except RemoteError as error:
            self._unknown.note(error)
            return {}
        return {
            found.model_version: {
                sums.name: RateSums(
                    users=sums.users,
                    trials=sums.trials,
                    events=sums.events,
                    trials_squared=sums.trials_squared,
                    events_squared=sums.events_squared,
                    events_times_trials=sums.events_times_trials,
                )
                for sums in found.rates
            }
            for found in reply.versions
        }

    def close(self) -> None:
        self._channel.close()

    def _segments(self, stream: Any) -> Sequence[Segment]:
        """Read all pages of a segment list.

        Each page is requested after the last sequence of the previous page. If segments were
        compacted in between, the later page starts with the compacted segment, which replaces the
        segments of earlier pages.
        """
        found: list[Segment] = []
        while page := self._page(stream, found[-1].sequence if found else 0):
            while found and found[-1].sequence >= page[0].first_sequence:
                found.pop()
            found += page
        return found

    def _page(self, stream: Any, after: int) -> list[Segment]:
        request = feedback_pb2.ListSegmentsRequest(stream=stream, after_sequence=after)
        reply = self._call(lambda: self._stub.ListSegments(request, timeout=CALL_SECONDS))
        return [
            Segment(
                sequence=s.sequence,
                topic_id=s.topic_id,
                partition=s.partition,
                start_offset=s.start_offset,
                end_offset=s.end_offset,
                object_key=s.object_key,
                sha256=s.sha256,
                rows=s.rows,
                # Services of earlier versions send no first sequence and compact nothing.
                first_sequence=s.first_sequence or s.sequence,
            )
            for s in reply.segments
        ]

    @property
    def _stub(self) -> Any:
        # The generated types only know grpc.aio; the loop uses blocking calls.
        return feedback_pb2_grpc.FeedbackLogServiceStub(self._channel.current())  # type: ignore[arg-type]

    def _call(self, call: Callable[[], Any]) -> Any:
        return _translated("feedback", self._target, self._patience_seconds, call)


class UnknownCall:
    """Call that an earlier release of a service does not know; logged once."""

    def __init__(self, service: str, call: str) -> None:
        self._service, self._call, self._is_noted = service, call, False

    def note(self, error: RemoteError) -> None:
        """Log the first error.

        Raises:
            RemoteError: the error has another reason than an unknown call.
        """
        if error.reason != grpc.StatusCode.UNIMPLEMENTED.name:
            raise error
        if not self._is_noted:
            log.warning(
                "%s does not know %s: rows of the canary without observations",
                self._service,
                self._call,
            )
        self._is_noted = True


class RolloutClient:
    """Client of RolloutService: view, start, renew and finish a canary."""

    def __init__(
        self,
        target: str,
        tls: TlsFiles | None = None,
        timeout_seconds: float = 0.0,
        identity: ServiceIdentity | None = None,
    ) -> None:
        self._target, self._patience_seconds = target, timeout_seconds
        self._channel = ServiceChannel(target, "generator", tls, identity)
        self._unknown = UnknownCall("generator", "GetVersionTraffic")

    def view(self) -> RolloutView:
        request = generator_pb2.GetRolloutRequest()
        reply = self._call(lambda: self._stub.GetRollout(request, timeout=CALL_SECONDS))
        halt = reply.halt.reason if reply.HasField("halt") else None
        undone = {c.version: c.reason for c in reply.history if c.kind == "watch_rolled_back"}
        stable = reply.stable.version
        if not reply.HasField("candidate"):
            return RolloutView(stable, "", CandidateState.ABSENT, halt=halt, undone=undone)
        found = reply.candidate
        state = STATES.get(found.state, CandidateState.LOADING)
        return RolloutView(stable, found.version, state, found.reason, halt, undone, found.share)

    def traffic(self, versions: Sequence[str]) -> dict[str, VersionFigures]:
        """Return the traffic of versions; empty with an earlier service."""
        request = generator_pb2.GetVersionTrafficRequest(versions=versions)
        try:
            reply = self._call(lambda: self._stub.GetVersionTraffic(request, timeout=CALL_SECONDS))
        except RemoteError as error:
            self._unknown.note(error)
            return {}
        return {
            found.version: VersionFigures(
                requests=found.requests,
                errors=found.errors,
                first_text_ms=dict(found.first_text_ms_bins),
                answer_tokens=dict(found.answer_tokens_bins),
                total_tokens=dict(found.total_tokens_bins),
            )
            for found in reply.versions
        }

    def start(self, version: str, directory: Path, share: float, lease_seconds: float) -> None:
        request = generator_pb2.StartCanaryRequest(
            version=version,
            directory=str(directory.resolve()),
            share=share,
            lease=_duration(lease_seconds),
        )
        for calls_left in reversed(range(MOST_CALLS_A_LOAD)):
            try:
                self._call(lambda: self._stub.StartCanary(request, timeout=LOAD_SECONDS))
            except DeadlineError:
                if not calls_left:
                    raise
            else:
                return

    def renew(self, version: str, lease_seconds: float) -> None:
        request = generator_pb2.RenewCanaryRequest(version=version, lease=_duration(lease_seconds))
        self._call(lambda: self._stub.RenewCanary(request, timeout=CALL_SECONDS))

    def finish(self, version: str, verdict: Verdict, reason: str) -> None:
        """Promote or roll back the candidate.

        Raises:
            ValueError: the verdict is WAIT.
        """
        reason = reason[:MAX_REASON_CHARACTERS]
        if verdict is Verdict.PROMOTE:
            promotion = generator_pb2.PromoteCanaryRequest(version=version, reason=reason)
            self._call(lambda: self._stub.PromoteCanary(promotion, timeout=CALL_SECONDS))
        elif verdict is Verdict.ROLL_BACK:
            rollback = generator_pb2.RollBackCanaryRequest(version=version, reason=reason)
            self._call(lambda: self._stub.RollBackCanary(rollback, timeout=CALL_SECONDS))
        else:
            raise ValueError("verdict: must be promote or roll_back, not wait")

    def close(self) -> None:
        self._channel.close()

    @property
    def _stub(self) -> Any:
        return generator_pb2_grpc.RolloutServiceStub(self._channel.current())  # type: ignore[arg-type]

    def _call(self, call: Callable[[], Any]) -> Any:
        return _translated("generator", self._target, self._patience_seconds, call)


def _translated(service: str, target: str, timeout_seconds: float, call: Callable[[], Any]) -> Any:
    end, repeated = time.monotonic() + timeout_seconds, False
    while True:
        started = time.monotonic()
        try:
            return call()
        except grpc.RpcError as error:
            # The retries of gRPC repeat the token, which expires during a long attempt.
            is_late = time.monotonic() - started >= TOKEN_SECONDS
            if error.code() is grpc.StatusCode.UNAUTHENTICATED and is_late and not repeated:
                repeated = True
                continue
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() >= end:
                kind = (
                    DeadlineError
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    else RemoteError
                )
                code = error.code().name
                raise kind(
                    f"{service} service at {target}: {code}: {error.details()}",
                    field=service,
                    reason=code,
                ) from error
        time.sleep(AGAIN_SECONDS)


def _duration(seconds: float) -> duration_pb2.Duration:
    length = duration_pb2.Duration()
    length.FromTimedelta(timedelta(seconds=seconds))
    return length
