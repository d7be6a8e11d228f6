"""gRPC clients of training for feedback, the generator's rollout and the items of reviewers.

Every call has a deadline and may be repeated, so a restart of a service costs a retry and not the
run. `timeout_seconds` covers longer outages and names that cannot be resolved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.review.v1 import review_pb2, review_pb2_grpc

from sequential.figures import RateSums, VersionFigures, shares_of
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import Erasure
from training.data.feedback.rows import DataKey
from training.evaluation.canary import Verdict
from training.evaluation.canary_run import CandidateState, RolloutView
from training.service_channel import (
    DeadlineError,
    RemoteError,
    ServiceClient,
    TlsFiles,
)
from training.service_identity import ServiceIdentity

CALL_SECONDS = 20.0
# StartCanary answers when the version is ready. Each call waits less than the longest deadline that
# a service allows, and is repeated for up to two hours. The generator itself ends a load after its
# `load_seconds`.
LOAD_SECONDS, MOST_CALLS_A_LOAD = 840.0, 9
MAX_REASON_CHARACTERS = 500  # the limit of RolloutService
MAX_PRINCIPALS = 1_000  # limit of GetDataKeys per call
MAX_REMOVED = 1_000  # limit of RemoveItems, for each of its lists
WITHOUT_ROWS = "%s does not know %s: rows of the canary without observations"
STATES = {
    generator_pb2.VERSION_STATE_LOADING: CandidateState.LOADING,
    generator_pb2.VERSION_STATE_READY: CandidateState.READY,
    generator_pb2.VERSION_STATE_FAILED: CandidateState.FAILED,
}


class FeedbackLog(ServiceClient):
    """Client of FeedbackLogService: segments, data keys, erasures and counts by version."""

    service, stub = "feedback", feedback_pb2_grpc.FeedbackLogServiceStub

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

    def version_feedback(
        self, versions: Sequence[str], since: datetime
    ) -> dict[str, VersionFigures]:
        """Return users' shares and rates by version, of answers since this time.

        Earlier services lack the shares, and the earliest of them the call; both are then empty.
        """
        stamp = timestamp_pb2.Timestamp()
        stamp.FromDatetime(since)
        request = feedback_pb2.GetVersionFeedbackRequest(model_versions=versions, since=stamp)
        try:
            reply = self._call(lambda: self._stub.GetVersionFeedback(request, timeout=CALL_SECONDS))
        except RemoteError as error:
            self._note_unknown(error, "GetVersionFeedback", WITHOUT_ROWS)
            return {}
        return {
            found.model_version: VersionFigures(
                user_shares=shares_of(
                    # Earlier services do not weigh users.
                    (row.up, row.down, row.users, row.weight if row.HasField("weight") else 1.0)
                    for row in found.user_thumbs
                ),
                rates={
                    sums.name: RateSums(
                        users=sums.users,
                        trials=sums.trials,
                        events=sums.events,
                        trials_squared=sums.trials_squared,
                        events_squared=sums.events_squared,
                        events_times_trials=sums.events_times_trials,
                    )
                    for sums in found.rates
                },
            )
            for found in reply.versions
        }

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


class RolloutClient(ServiceClient):
    """Client of RolloutService: view, start, renew and finish a canary."""

    service, stub = "generator", generator_pb2_grpc.RolloutServiceStub

    def view(self) -> RolloutView:
        request = generator_pb2.GetRolloutRequest()
        reply = self._call(lambda: self._stub.GetRollout(request, timeout=CALL_SECONDS))
        halt = reply.halt.reason if reply.HasField("halt") else None
        undone = {c.version: c.reason for c in reply.history if c.kind == "watch_rolled_back"}
        stable, previous = reply.stable.version, reply.watch.previous.version
        if not reply.HasField("candidate"):
            return RolloutView(
                stable, "", CandidateState.ABSENT, halt=halt, undone=undone, previous=previous
            )
        found = reply.candidate
        state = STATES.get(found.state, CandidateState.LOADING)
        return RolloutView(
            stable, found.version, state, found.reason, halt, undone, found.share, previous
        )

    def traffic(self, versions: Sequence[str]) -> dict[str, VersionFigures]:
        """Return the traffic of versions; empty with an earlier service."""
        request = generator_pb2.GetVersionTrafficRequest(versions=versions)
        try:
            reply = self._call(lambda: self._stub.GetVersionTraffic(request, timeout=CALL_SECONDS))
        except RemoteError as error:
            self._note_unknown(error, "GetVersionTraffic", WITHOUT_ROWS)
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


def _duration(seconds: float) -> duration_pb2.Duration:
    length = duration_pb2.Duration()
    length.FromTimedelta(timedelta(seconds=seconds))
    return length


class ReviewItems(ServiceClient):
    """Client of ReviewItemService; every call may be repeated.

    All methods raise RemoteError if the service is unavailable or refuses the call.
    """

    service, stub = "review", review_pb2_grpc.ReviewItemServiceStub

    def add(self, items: Sequence[review_pb2.DrawnItem]) -> int:
        """Add items; return the number of those that were stored now."""
        request = review_pb2.AddItemsRequest(items=items)
        reply = self._call(lambda: self._stub.AddItems(request, timeout=CALL_SECONDS))
        return int(reply.added)

    def remove(self, principals: Sequence[str] = (), item_ids: Sequence[str] = ()) -> int:
        """Remove the items of users, and items by their ids; return their number."""
        removed = 0
        for start in range(0, max(len(principals), len(item_ids)), MAX_REMOVED):
            part = slice(start, start + MAX_REMOVED)
            request = review_pb2.RemoveItemsRequest(
                principals=principals[part], item_ids=item_ids[part]
            )
            call = partial(self._stub.RemoveItems, request, timeout=CALL_SECONDS)
            removed += int(self._call(call).removed)
        return removed

    def reviewed(self) -> Iterator[review_pb2.ReviewedItem]:
        """Yield all items that have reviews, oldest first."""
        for page in self._pages("ListReviews", review_pb2.ListReviewsRequest()):
            yield from page.items

    def quarantined(self) -> frozenset[str]:
        """Return the accounts in quarantine, as principals; none with an earlier service."""
        request = review_pb2.ListQuarantinedAccountsRequest()
        try:
            pages = [page.principals for page in self._pages("ListQuarantinedAccounts", request)]
        except RemoteError as error:
            warning = "%s does not know %s: no account is left out"
            self._note_unknown(error, "ListQuarantinedAccounts", warning)
            return frozenset()
        return frozenset(chain.from_iterable(pages))

    def _pages(self, call: str, request: Any) -> Iterator[Any]:
        """Yield the responses of a call with pages; the token of the request is changed."""
        while True:
            reply = self._call(lambda: getattr(self._stub, call)(request, timeout=CALL_SECONDS))
            yield reply
            request.page_token = reply.next_page_token
            if not request.page_token:
                return


def quarantined_accounts(
    target: str, tls: TlsFiles | None, timeout_seconds: float, identity: ServiceIdentity | None
) -> frozenset[str]:
    """Return the accounts in quarantine; none without a target or with an earlier service.

    Raises:
        RemoteError: the service is unavailable or refuses the call.
    """
    if not target:
        return frozenset()
    with closing(ReviewItems(target, tls, timeout_seconds, identity)) as review:
        return review.quarantined()
