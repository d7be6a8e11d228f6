"""Client of the feedback service for turn records."""

from collections.abc import Sequence

import grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import call_unary


class FeedbackTurnLog:
    """Implementation of `relay.TurnLog` with the feedback service."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._append = feedback_pb2_grpc.FeedbackLogServiceStub(channel).AppendTurns
        self._timeout_seconds = timeout_seconds

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append records to the log of the feedback service."""
        turns = [events_pb2.TurnEvent.FromString(payload) for payload in payloads]
        request = feedback_pb2.AppendTurnsRequest(turns=turns)
        await call_unary("feedback", self._append, request, within_seconds=self._timeout_seconds)
