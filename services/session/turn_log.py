"""The feedback service as the outbox sees it."""

from collections.abc import Sequence

import grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import call_unary


class FeedbackTurnLog:
    """Appends records by gRPC."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._append = feedback_pb2_grpc.FeedbackLogServiceStub(channel).AppendTurns
        self._timeout_seconds = timeout_seconds

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Returns when the records are durable. Raises: ServiceError."""
        turns = [events_pb2.TurnEvent.FromString(payload) for payload in payloads]
        request = feedback_pb2.AppendTurnsRequest(turns=turns)
        await call_unary("feedback", self._append, request, within_seconds=self._timeout_seconds)
