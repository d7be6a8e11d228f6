"""FeedbackLogService: conversion between protobuf and domain, and authorisation."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from services.chassis.errors import FailedPreconditionError, PermissionDeniedError
from services.chassis.identity import require_caller
from services.chassis.telemetry import trace_headers
from services.contracts.feedback import Ranking, Signal, Thumb
from services.contracts.identifiers import principal_of
from services.contracts.limits import MAX_CONTEXT_MESSAGES, check_uuid, field_error
from services.contracts.wire import timestamp
from services.feedback import metrics
from services.feedback import wire as codec
from services.feedback.events import (
    FeedbackEvent,
    Stream,
    check_each,
    check_feedback,
    check_position,
    check_principal,
    check_turn,
    check_unsealed,
    check_version,
)
from services.feedback.lake.ledger import Ledger
from services.feedback.principals.consents import Consent, Consents
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasure, Erasures
from services.feedback.projections.account_age import FULL
from services.feedback.projections.current_feedback import CurrentFeedback
from services.feedback.projections.experiments import Experiments
from services.feedback.projections.thumbs import UserCount, majorities
from services.feedback.projections.version_feedback import VersionFeedbacks
from services.feedback.spool.accept import GroupCommit
from services.feedback.spool.log import Entry

MAX_TURNS = 500
MAX_TURN_BYTES = 2 * 1024 * 1024
MAX_MESSAGES = 1_000
MAX_PRINCIPALS = 1_000
MAX_VERSIONS = 10
# About 10 µs each for the conversion, and 300 bytes.
SEGMENTS_PER_PAGE = 2_000
STREAMS = {feedback_pb2.STREAM_FEEDBACK: Stream.FEEDBACK, feedback_pb2.STREAM_TURNS: Stream.TURNS}


@dataclass(frozen=True)
class Principals:
    """Stores of principals' data.

    `forget` removes an erased principal from overlays in memory.
    """

    keys: DataKeys
    consents: Consents
    erasures: Erasures
    forget: Callable[[str], None]


class FeedbackLogServicer(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """gRPC servicer for the internal callers gateway, session and training."""

    def __init__(
        self,
        principal_key: str,
        feedback: GroupCommit,
        turns: GroupCommit,
        ledger: Ledger,
        current: CurrentFeedback,
        experiments: Experiments,
        versions: VersionFeedbacks,
        principals: Principals,
    ) -> None:
        self._principal_key, self._principals = principal_key, principals
        self._feedback, self._turns = feedback, turns
        self._ledger, self._current, self._experiments = ledger, current, experiments
        self._versions = versions

    async def RecordFeedback(
        self, request: feedback_pb2.RecordFeedbackRequest, context: Any
    ) -> feedback_pb2.RecordFeedbackResponse:
        event = codec.feedback_from(request.event)
        check_feedback(event)
        check_unsealed(event)
        caller = require_caller()
        if (event.tenant, event.principals[-1]) != (caller.tenant, self._principal()):
            raise PermissionDeniedError(
                "the event belongs to another principal",
                field="event.rater" if event.rater else "event.principal",
            )
        if isinstance(event.value, Signal) and not await asyncio.to_thread(
            self._principals.consents.allowed, [event.principal]
        ):
            raise FailedPreconditionError(
                "the user does not allow training",
                field="event.signal",
                reason="CONSENT_REQUIRED",
                limit="only with consent to training",
            )
        durable = feedback_pb2.RecordFeedbackResponse(durability=feedback_pb2.DURABILITY_SPOOL)
        # Rankings and feedback of reviewers come from an outbox, possibly after an erasure.
        if (event.rater or isinstance(event.value, Ranking)) and await asyncio.to_thread(
            self._is_overtaken, event
        ):
            return durable
        new = await _acknowledge(
            Stream.FEEDBACK,
            self._feedback,
            [codec.feedback_entry(request.event, trace_headers().get("traceparent", ""))],
        )
        if new and isinstance(event.value, Thumb) and not event.rater:
            metrics.THUMBS.labels(event.model_version, "up" if event.value.up else "down").inc()
        return durable

    def _is_overtaken(self, event: FeedbackEvent) -> bool:
        """Return True if the event was accepted before an erasure of one of its principals."""
        erased_us = self._principals.erasures.last(event.principals)
        return any(event.accept_us <= last_us for last_us in erased_us.values())

    async def AppendTurns(
        self, request: feedback_pb2.AppendTurnsRequest, context: Any
    ) -> feedback_pb2.AppendTurnsResponse:
        if not 1 <= len(request.turns) <= MAX_TURNS:
            raise field_error("turns", f"1 to {MAX_TURNS}")
        if request.ByteSize() > MAX_TURN_BYTES:
            raise field_error("turns", f"{MAX_TURN_BYTES:,} bytes")
        for number, turn in enumerate(request.turns):
            if len(turn.context) > MAX_CONTEXT_MESSAGES:
                raise field_error(
                    f"turns[{number}].context", f"at most {MAX_CONTEXT_MESSAGES:,} messages"
                )
            # Conversion takes about 2 µs for each message of the contexts.
            await asyncio.sleep(0)
            event = codec.turn_from(turn)
            check_turn(event, f"turns[{number}]")
            check_unsealed(event, f"turns[{number}]")
        # Before anything is stored: without consent a turn has no implicit signals.
        allowed = await asyncio.to_thread(
            self._principals.consents.allowed, {turn.principal for turn in request.turns}
        )
        for turn in request.turns:
            if turn.principal not in allowed:
                turn.ClearField("parent_message_id")
        trace = trace_headers().get("traceparent", "")
        await _acknowledge(
            Stream.TURNS, self._turns, [codec.turn_entry(turn, trace) for turn in request.turns]
        )
        return feedback_pb2.AppendTurnsResponse()

    async def ListSegments(
        self, request: feedback_pb2.ListSegmentsRequest, context: Any
    ) -> feedback_pb2.ListSegmentsResponse:
        if request.stream not in STREAMS:
            raise field_error("stream", "STREAM_FEEDBACK or STREAM_TURNS")
        check_position(request.after_sequence, "after_sequence")
        # Readers continue after their last sequence until a page is empty. A compacted segment that
        # starts before that sequence is returned whole and replaces the reader's earlier segments.
        # Orphan objects are never listed.
        segments = await asyncio.to_thread(
            self._ledger.readable_segments,
            STREAMS[request.stream],
            request.after_sequence,
            SEGMENTS_PER_PAGE,
        )
        return feedback_pb2.ListSegmentsResponse(
            segments=[
                feedback_pb2.Segment(
                    first_sequence=item.first_sequence,
                    sequence=item.sequence,
                    topic_id=item.topic_id,
                    partition=item.partition,
                    start_offset=item.start_offset,
                    end_offset=item.end_offset,
                    object_key=item.object_key,
                    sha256=item.sha256,
                    rows=item.rows,
                    dead_letters=item.dead_letters,
                    commit_time=timestamp(item.commit_us),
                )
                for item in segments
            ]
        )

    async def CountThumbs(
        self, request: feedback_pb2.CountThumbsRequest, context: Any
    ) -> feedback_pb2.CountThumbsResponse:
        thumbs, since_us = self._current.thumbs, request.since.ToMicroseconds()
        counts = await thumbs.count(since_us)
        users = await thumbs.count_users(since_us) if request.users else {}
        answer = feedback_pb2.CountThumbsResponse()
        for count in counts:
            up, down = majorities(users.get((count.model_version, count.arm), UserCount()))
            answer.counts.add(
                model_version=count.model_version,
                arm=count.arm,
                up=count.up,
                down=count.down,
                users_up=up,
                users_down=down,
            )
        return answer

    async def GetExperiment(
        self, request: feedback_pb2.GetExperimentRequest, context: Any
    ) -> feedback_pb2.GetExperimentResponse:
        figures = await self._experiments.figures(request.since.ToMicroseconds())
        return feedback_pb2.GetExperimentResponse(
            arms=[
                feedback_pb2.ExperimentArm(
                    model_version=arm.model_version,
                    arm=arm.arm,
                    exposed_users=arm.exposed_users,
                    first_exposure_time=timestamp(arm.first_us),
                    up=arm.up,
                    down=arm.down,
                    up_rate_low=arm.up_rate_interval.low,
                    up_rate_high=arm.up_rate_interval.high,
                )
                for arm in figures
            ]
        )

    async def GetVersionFeedback(
        self, request: feedback_pb2.GetVersionFeedbackRequest, context: Any
    ) -> feedback_pb2.GetVersionFeedbackResponse:
        check_each(request.model_versions, "model_versions", MAX_VERSIONS, check_version)
        found = await self._versions.of_versions(
            request.model_versions, request.since.ToMicroseconds()
        )
        reply = feedback_pb2.GetVersionFeedbackResponse()
        for version in found:
            up, down = majorities(version.users)
            reply.versions.add(
                model_version=version.model_version,
                users_up=up,
                users_down=down,
                rates=[feedback_pb2.RateSums(**vars(sums)) for sums in version.rates],
                user_thumbs=[
                    feedback_pb2.UserThumbs(up=ups, down=downs, users=users, weight=tenths / FULL)
                    for (ups, downs, tenths), users in sorted(version.users.items())
                ],
            )
        return reply

    async def GetThumbs(
        self, request: feedback_pb2.GetThumbsRequest, context: Any
    ) -> feedback_pb2.GetThumbsResponse:
        check_each(request.message_ids, "message_ids", MAX_MESSAGES, check_uuid)
        thumbs, words = await self._current.of_principal(self._principal(), request.message_ids)
        return feedback_pb2.GetThumbsResponse(
            thumbs=thumbs,
            words={
                message_id: feedback_pb2.Words(**vars(current))
                for message_id, current in words.items()
            },
        )

    def _principal(self) -> str:
        """Return the caller's principal.

        Raises:
            UnauthenticatedError: The call has no authenticated caller.
        """
        return principal_of(self._principal_key, require_caller())

    async def GetPrincipalConsent(
        self, request: feedback_pb2.GetPrincipalConsentRequest, context: Any
    ) -> feedback_pb2.GetPrincipalConsentResponse:
        principal = self._principal()
        found = await asyncio.to_thread(self._principals.consents.get, [principal])
        return feedback_pb2.GetPrincipalConsentResponse(consent=_consent(found[principal]))

    async def SetPrincipalConsent(
        self, request: feedback_pb2.SetPrincipalConsentRequest, context: Any
    ) -> feedback_pb2.SetPrincipalConsentResponse:
        principal = self._principal()
        if not request.HasField("training"):
            raise field_error("training", "true or false")
        stored = await asyncio.to_thread(self._principals.consents.set, principal, request.training)
        return feedback_pb2.SetPrincipalConsentResponse(consent=_consent(stored))

    async def ErasePrincipal(
        self, request: feedback_pb2.ErasePrincipalRequest, context: Any
    ) -> feedback_pb2.ErasePrincipalResponse:
        started, principal = time.perf_counter(), self._principal()
        erasure, is_new = await asyncio.to_thread(
            self._principals.erasures.erase, principal, require_caller().tenant
        )
        if is_new:
            self._principals.forget(principal)
            metrics.ERASURES.inc()
            metrics.SHRED_SECONDS.observe(time.perf_counter() - started)
        return feedback_pb2.ErasePrincipalResponse(erasure=_erasure(erasure))

    async def GetPrincipalErasure(
        self, request: feedback_pb2.GetPrincipalErasureRequest, context: Any
    ) -> feedback_pb2.GetPrincipalErasureResponse:
        principal = self._principal()
        check_uuid(request.erasure_id, "erasure_id")
        found = await asyncio.to_thread(
            self._principals.erasures.get, principal, request.erasure_id
        )
        return feedback_pb2.GetPrincipalErasureResponse(erasure=_erasure(found))

    async def GetDataKeys(
        self, request: feedback_pb2.GetDataKeysRequest, context: Any
    ) -> feedback_pb2.GetDataKeysResponse:
        check_each(request.principals, "principals", MAX_PRINCIPALS, check_principal)
        principals = self._principals
        consents = await asyncio.to_thread(principals.consents.get, request.principals)
        allowed = [principal for principal, consent in consents.items() if consent.training]
        keys = await asyncio.to_thread(principals.keys.existing, allowed)
        answer = feedback_pb2.GetDataKeysResponse()
        for principal, consent in consents.items():
            answer.keys[principal].consent = consent.training
            if key := keys.get(principal):
                answer.keys[principal].key_id, answer.keys[principal].key = key.key_id, key.key
        return answer

    async def ListErasures(
        self, request: feedback_pb2.ListErasuresRequest, context: Any
    ) -> feedback_pb2.ListErasuresResponse:
        check_position(request.after_number, "after_number")
        found = await asyncio.to_thread(self._principals.erasures.after, request.after_number)
        return feedback_pb2.ListErasuresResponse(
            erasures=[
                feedback_pb2.ErasedPrincipal(
                    number=one.number, principal=one.principal, erasure=_erasure(one)
                )
                for one in found
            ]
        )


async def _acknowledge(stream: Stream, log: GroupCommit, entries: Sequence[Entry]) -> int:
    """Wait until all entries are durable and return the number of new entries."""
    started = time.perf_counter()
    new = await log.append(entries)
    metrics.ACK_SECONDS.labels(stream).observe(time.perf_counter() - started)
    metrics.ACKS.labels(stream, "new").inc(new)
    metrics.ACKS.labels(stream, "known").inc(len(entries) - new)
    return new


def _consent(consent: Consent) -> feedback_pb2.Consent:
    return feedback_pb2.Consent(training=consent.training, update_time=timestamp(consent.update_us))


def _erasure(erasure: Erasure) -> feedback_pb2.Erasure:
    return feedback_pb2.Erasure(
        erasure_id=erasure.erasure_id,
        request_time=timestamp(erasure.request_us),
        shred_time=timestamp(erasure.shred_us),
        rewrite_time=timestamp(erasure.rewrite_us),
    )
