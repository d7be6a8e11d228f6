"""Client of the feedback service."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import AlreadyExistsError, NotFoundError, UnavailableError
from services.contracts.wire import set_feedback_value
from services.gateway.feedback import Durability, FeedbackEvent
from services.gateway.own_data import Consent, Erasure

PEER = "feedback"
DURABILITIES = {feedback_pb2.DURABILITY_SPOOL: Durability.SPOOL}
# Largest number of answers whose feedback fits into a 4 MiB message, at 43 KB of text per answer.
MAX_THUMBS_A_CALL = 90


class FeedbackPeer:
    """Implements `feedback.FeedbackLog` and `own_data.OwnLog`."""

    def __init__(
        self, stub: feedback_pb2_grpc.FeedbackLogServiceStub, within_seconds: float
    ) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def record(self, event: FeedbackEvent) -> Durability:
        message = events_pb2.FeedbackEvent(
            event_id=event.event_id,
            tenant=event.tenant,
            principal=event.principal,
            conversation_id=event.conversation_id,
            message_id=event.message_id,
            model_version=event.model_version,
            arm=event.arm,
        )
        message.accept_time.FromNanoseconds(event.accept_ns)
        set_feedback_value(message, event.value)
        request = feedback_pb2.RecordFeedbackRequest(event=message)
        try:
            response = await self._call(self._stub.RecordFeedback, request)
        except AlreadyExistsError as error:
            # The caller knows the request_id from which the event_id was derived.
            raise AlreadyExistsError(
                "request_id was already used with other feedback",
                field="request_id",
                limit="one content per request_id",
            ) from error
        if response.durability not in DURABILITIES:
            raise UnavailableError(
                "the feedback service reported no durability",
                reason="FEEDBACK_UNAVAILABLE",
            )
        return DURABILITIES[response.durability]

    async def current_feedback(self, message_ids: Sequence[str]) -> feedback_pb2.GetThumbsResponse:
        """Return the caller's current feedback on messages."""
        found = feedback_pb2.GetThumbsResponse()
        for start in range(0, len(message_ids), MAX_THUMBS_A_CALL):
            request = feedback_pb2.GetThumbsRequest(
                message_ids=message_ids[start : start + MAX_THUMBS_A_CALL]
            )
            found.MergeFrom(await self._call(self._stub.GetThumbs, request))
        return found

    async def experiment(self) -> feedback_pb2.GetExperimentResponse:
        """Return the comparison of the newest versions."""
        found: feedback_pb2.GetExperimentResponse = await self._call(
            self._stub.GetExperiment, feedback_pb2.GetExperimentRequest()
        )
        return found

    async def count_thumbs(self, since: Timestamp | None) -> feedback_pb2.CountThumbsResponse:
        """Return current thumbs of all users by version, since a time if given."""
        found: feedback_pb2.CountThumbsResponse = await self._call(
            self._stub.CountThumbs, feedback_pb2.CountThumbsRequest(since=since)
        )
        return found

    async def consent(self) -> Consent:
        return _consent(
            await self._call(
                self._stub.GetPrincipalConsent, feedback_pb2.GetPrincipalConsentRequest()
            )
        )

    async def set_consent(self, *, training: bool) -> Consent:
        request = feedback_pb2.SetPrincipalConsentRequest(training=training)
        return _consent(await self._call(self._stub.SetPrincipalConsent, request))

    async def erase_principal(self) -> Erasure:
        return _erasure(
            await self._call(self._stub.ErasePrincipal, feedback_pb2.ErasePrincipalRequest())
        )

    async def erasure(self, erasure_id: str) -> Erasure:
        request = feedback_pb2.GetPrincipalErasureRequest(erasure_id=erasure_id)
        try:
            return _erasure(await self._call(self._stub.GetPrincipalErasure, request))
        except NotFoundError as error:
            raise NotFoundError("the erasure is unknown", field="erasure_id") from error

    async def _call(self, method: Any, request: Message) -> Any:
        return await call_unary(PEER, method, request, within_seconds=self._within_seconds)


def _consent(
    response: feedback_pb2.GetPrincipalConsentResponse | feedback_pb2.SetPrincipalConsentResponse,
) -> Consent:
    consent = response.consent
    return Consent(
        consent.training,
        consent.update_time.ToMicroseconds() if consent.HasField("update_time") else None,
    )


def _erasure(
    response: feedback_pb2.ErasePrincipalResponse | feedback_pb2.GetPrincipalErasureResponse,
) -> Erasure:
    found = response.erasure
    if not found.HasField("shred_time"):
        raise UnavailableError(
            "the feedback service reported no time of key destruction",
            reason="FEEDBACK_UNAVAILABLE",
        )
    rewrite_us = found.rewrite_time.ToMicroseconds() if found.HasField("rewrite_time") else None
    return Erasure(
        found.erasure_id,
        found.request_time.ToMicroseconds(),
        found.shred_time.ToMicroseconds(),
        rewrite_us,
    )
