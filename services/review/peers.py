"""Clients of session, generator and feedback."""

import uuid
from collections.abc import Mapping, Sequence

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import UnavailableError
from services.chassis.identity import CallContext, Caller, bind_call
from services.review.arena.labels import Label


class SessionPeer:
    """Implements `votes.Messages` and `appeals.Answers` with the session service."""

    def __init__(self, stub: session_pb2_grpc.SessionServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def message(self, message_id: str) -> chat_pb2.Message:
        return (await self.get(message_id)).message

    async def get(self, message_id: str) -> session_pb2.GetMessageResponse:
        request = session_pb2.GetMessageRequest(message_id=message_id)
        return await call_unary(
            "session", self._stub.GetMessage, request, within_seconds=self._within_seconds
        )


class GeneratorPeer:
    """Implements `participants.ServedModels` and `labels.ExternalModels` with the generator."""

    def __init__(self, stub: generator_pb2_grpc.RolloutServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def served_models(self) -> Sequence[str]:
        """Return stable version, candidate and version before, if loaded, and external models.

        The stable version is returned in every state, because it answers as soon as it is loaded.
        """
        rollout = await self._rollout()
        others = (rollout.candidate, rollout.watch.previous)
        return [
            rollout.stable.version,
            *(
                other.version
                for other in others
                if other.state == generator_pb2.VERSION_STATE_READY
            ),
            *(model.name for model in rollout.external_models),
        ]

    async def external_models(self) -> Mapping[str, Label]:
        rollout = await self._rollout()
        return {
            model.name: Label(model.developer, model.licence, model.endpoint_model)
            for model in rollout.external_models
        }

    async def _rollout(self) -> generator_pb2.GetRolloutResponse:
        found: generator_pb2.GetRolloutResponse = await call_unary(
            "generator",
            self._stub.GetRollout,
            generator_pb2.GetRolloutRequest(),
            within_seconds=self._within_seconds,
        )
        return found


class FeedbackPeer:
    """Implements `relay.FeedbackLog` and `erasure.ErasureList` with the feedback service."""

    def __init__(
        self, stub: feedback_pb2_grpc.FeedbackLogServiceStub, within_seconds: float
    ) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def record(self, caller: Caller, event: events_pb2.FeedbackEvent) -> None:
        # The feedback service accepts events of the calling user only. The relay is a task of its
        # own, so that no other call sees this identity.
        bind_call(CallContext(caller, uuid.uuid4().hex))
        request = feedback_pb2.RecordFeedbackRequest(event=event)
        response: feedback_pb2.RecordFeedbackResponse = await call_unary(
            "feedback", self._stub.RecordFeedback, request, within_seconds=self._within_seconds
        )
        if response.durability != feedback_pb2.DURABILITY_SPOOL:
            raise UnavailableError(
                "the feedback service reported no durability", reason="FEEDBACK_UNAVAILABLE"
            )

    async def erasures(self, after: int) -> Sequence[feedback_pb2.ErasedPrincipal]:
        request = feedback_pb2.ListErasuresRequest(after_number=after)
        found: feedback_pb2.ListErasuresResponse = await call_unary(
            "feedback", self._stub.ListErasures, request, within_seconds=self._within_seconds
        )
        return found.erasures
