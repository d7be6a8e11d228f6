"""FeedbackLogService: conversion between protobuf and domain, and authorisation."""

import time
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.feedback.v1 import feedback_pb2

from services.chassis.errors import PermissionDeniedError
from services.chassis.identity import require_caller
from services.chassis.telemetry import trace_headers
from services.contracts.feedback import Thumb
from services.contracts.limits import field_error
from services.feedback import metrics
from services.feedback import wire as codec
from services.feedback.events import (
    Stream,
    check_feedback,
    check_message_ids,
    check_position,
    check_turn,
    check_unsealed,
)
from services.feedback.lake.catalogue import Catalogue
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.principals.servicer import Principals, PrincipalServicer
from services.feedback.projections.current_feedback import CurrentFeedback
from services.feedback.projections.experiments import ArmFigures, Experiments
from services.feedback.spool.accept import GroupCommit
from services.feedback.spool.frames import Entry

MAX_TURNS = 500
MAX_TURN_BYTES = 2 * 1024 * 1024
MAX_MESSAGES = 1_000
STREAMS = {feedback_pb2.STREAM_FEEDBACK: Stream.FEEDBACK, feedback_pb2.STREAM_TURNS: Stream.TURNS}


class FeedbackLogServicer(PrincipalServicer):
    """gRPC servicer for the internal callers gateway, session and training."""

    def __init__(
        self,
        principal_key: str,
        feedback: GroupCommit,
        turns: GroupCommit,
        catalogue: Catalogue,
        current: CurrentFeedback,
        experiments: Experiments,
        principals: Principals,
    ) -> None:
        super().__init__(principal_key, principals)
        self._feedback, self._turns = feedback, turns
        self._catalogue, self._current, self._experiments = catalogue, current, experiments

    async def RecordFeedback(
        self, request: feedback_pb2.RecordFeedbackRequest, context: Any
    ) -> feedback_pb2.RecordFeedbackResponse:
        event = codec.feedback_from(request.event)
        check_feedback(event)
        check_unsealed(event)
        caller = require_caller()
        if (event.tenant, event.principal) != (caller.tenant, self._principal()):
            raise PermissionDeniedError(
                "the event belongs to another principal", field="event.principal"
            )
        new = await _acknowledge(
            Stream.FEEDBACK,
            self._feedback,
            [codec.feedback_entry(request.event, trace_headers().get("traceparent", ""))],
        )
        if new and isinstance(event.value, Thumb):
            metrics.THUMBS.labels(event.model_version, "up" if event.value.up else "down").inc()
        return feedback_pb2.RecordFeedbackResponse(durability=feedback_pb2.DURABILITY_SPOOL)

    async def AppendTurns(
        self, request: feedback_pb2.AppendTurnsRequest, context: Any
    ) -> feedback_pb2.AppendTurnsResponse:
        if not 1 <= len(request.turns) <= MAX_TURNS:
            raise field_error("turns", f"1 to {MAX_TURNS}")
        if request.ByteSize() > MAX_TURN_BYTES:
            raise field_error("turns", f"{MAX_TURN_BYTES:,} bytes")
        for number, turn in enumerate(request.turns):
            event = codec.turn_from(turn)
            check_turn(event, f"turns[{number}]")
            check_unsealed(event, f"turns[{number}]")
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
        segments = await self._catalogue.after(STREAMS[request.stream], request.after_sequence)
        return feedback_pb2.ListSegmentsResponse(segments=[_segment(item) for item in segments])

    async def CountThumbs(
        self, request: feedback_pb2.CountThumbsRequest, context: Any
    ) -> feedback_pb2.CountThumbsResponse:
        counts = await self._current.thumbs.count(request.since.ToMicroseconds())
        return feedback_pb2.CountThumbsResponse(
            counts=[
                feedback_pb2.ThumbCount(
                    model_version=count.model_version, arm=count.arm, up=count.up, down=count.down
                )
                for count in counts
            ]
        )

    async def GetExperiment(
        self, request: feedback_pb2.GetExperimentRequest, context: Any
    ) -> feedback_pb2.GetExperimentResponse:
        figures = await self._experiments.figures(request.since.ToMicroseconds())
        return feedback_pb2.GetExperimentResponse(arms=[_arm(arm) for arm in figures])

    async def GetThumbs(
        self, request: feedback_pb2.GetThumbsRequest, context: Any
    ) -> feedback_pb2.GetThumbsResponse:
        check_message_ids(request.message_ids, MAX_MESSAGES)
        thumbs, words = await self._current.of_principal(self._principal(), request.message_ids)
        return feedback_pb2.GetThumbsResponse(
            thumbs=thumbs,
            words={
                message_id: feedback_pb2.Words(**vars(current))
                for message_id, current in words.items()
            },
        )


async def _acknowledge(stream: Stream, log: GroupCommit, entries: Sequence[Entry]) -> int:
    """Wait until all entries are durable and return the number of new entries."""
    started = time.perf_counter()
    new = await log.append(entries)
    metrics.ACK_SECONDS.labels(stream).observe(time.perf_counter() - started)
    metrics.ACKS.labels(stream, "new").inc(new)
    metrics.ACKS.labels(stream, "known").inc(len(entries) - new)
    return new


def _arm(figures: ArmFigures) -> feedback_pb2.ExperimentArm:
    first = Timestamp()
    first.FromMicroseconds(figures.first_us)
    return feedback_pb2.ExperimentArm(
        model_version=figures.model_version,
        arm=figures.arm,
        exposed_users=figures.exposed_users,
        first_exposure_time=first,
        up=figures.up,
        down=figures.down,
        up_rate_low=figures.up_rate_interval.low,
        up_rate_high=figures.up_rate_interval.high,
    )


def _segment(item: ReadableSegment) -> feedback_pb2.Segment:
    commit_time = Timestamp()
    commit_time.FromMicroseconds(item.commit_us)
    return feedback_pb2.Segment(
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
        commit_time=commit_time,
    )
