"""The feedback service's log."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import AlreadyExistsError, NotFoundError, UnavailableError
from services.gateway.feedback import Correction, Durability, FeedbackEvent, Retraction, Thumb
from services.gateway.own_data import Consent, Erasure

PEER = "feedback"
DURABILITIES = {feedback_pb2.DURABILITY_SPOOL: Durability.SPOOL}
# So many that an answer fits into a message, 4 MiB, though all words on all of them are as long as
# they may be: 43 KB.
MAX_THUMBS_A_CALL = 90


class FeedbackPeer:
    """See `feedback.FeedbackLog` and `own_data.OwnLog`."""

    def __init__(
        self, stub: feedback_pb2_grpc.FeedbackLogServiceStub, within_seconds: float
    ) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def record(self, event: FeedbackEvent) -> Durability:
        """See `feedback.FeedbackLog`."""
        request = feedback_pb2.RecordFeedbackRequest(event=_message(event))
        try:
            response = await self._call(self._stub.RecordFeedback, request)
        except AlreadyExistsError as error:
            # The caller knows the id that the event's is made from.
            raise AlreadyExistsError(
                "request_id was used to say something else; the first stands",
                field="request_id",
                limit="one content a request_id",
            ) from error
        if response.durability not in DURABILITIES:
            raise UnavailableError(
                "the feedback service does not say where the event is",
                reason="FEEDBACK_UNAVAILABLE",
            )
        return DURABILITIES[response.durability]

    async def said(self, message_ids: Sequence[str]) -> feedback_pb2.GetThumbsResponse:
        """What the caller said about messages, as it stands."""
        found = feedback_pb2.GetThumbsResponse()
        for start in range(0, len(message_ids), MAX_THUMBS_A_CALL):
            request = feedback_pb2.GetThumbsRequest(
                message_ids=message_ids[start : start + MAX_THUMBS_A_CALL]
            )
            found.MergeFrom(await self._call(self._stub.GetThumbs, request))
        return found

    async def experiment(self) -> feedback_pb2.GetExperimentResponse:
        """How the newest versions do."""
        found: feedback_pb2.GetExperimentResponse = await self._call(
            self._stub.GetExperiment, feedback_pb2.GetExperimentRequest()
        )
        return found

    async def count_thumbs(self, since: Timestamp | None) -> feedback_pb2.CountThumbsResponse:
        """Standing thumbs of everybody, by version; those given since a time, or all."""
        found: feedback_pb2.CountThumbsResponse = await self._call(
            self._stub.CountThumbs, feedback_pb2.CountThumbsRequest(since=since)
        )
        return found

    async def consent(self) -> Consent:
        """See `own_data.OwnLog`."""
        return _consent(
            await self._call(
                self._stub.GetPrincipalConsent, feedback_pb2.GetPrincipalConsentRequest()
            )
        )

    async def set_consent(self, *, training: bool) -> Consent:
        """See `own_data.OwnLog`."""
        request = feedback_pb2.SetPrincipalConsentRequest(training=training)
        return _consent(await self._call(self._stub.SetPrincipalConsent, request))

    async def erase_principal(self) -> Erasure:
        """See `own_data.OwnLog`."""
        return _erasure(
            await self._call(self._stub.ErasePrincipal, feedback_pb2.ErasePrincipalRequest())
        )

    async def erasure(self, erasure_id: str) -> Erasure:
        """See `own_data.OwnLog`."""
        request = feedback_pb2.GetPrincipalErasureRequest(erasure_id=erasure_id)
        try:
            return _erasure(await self._call(self._stub.GetPrincipalErasure, request))
        except NotFoundError as error:
            raise NotFoundError("there is no such erasure", field="erasure_id") from error

    async def _call(self, method: Any, request: Message) -> Any:
        return await call_unary(PEER, method, request, within_seconds=self._within_seconds)


def _consent(
    response: feedback_pb2.GetPrincipalConsentResponse | feedback_pb2.SetPrincipalConsentResponse,
) -> Consent:
    said = response.consent
    return Consent(
        said.training, said.update_time.ToMicroseconds() if said.HasField("update_time") else None
    )


def _erasure(
    response: feedback_pb2.ErasePrincipalResponse | feedback_pb2.GetPrincipalErasureResponse,
) -> Erasure:
    found = response.erasure
    if not found.HasField("shred_time"):
        raise UnavailableError(
            "the feedback service does not say when the key went", reason="FEEDBACK_UNAVAILABLE"
        )
    rewrite_us = found.rewrite_time.ToMicroseconds() if found.HasField("rewrite_time") else None
    return Erasure(
        found.erasure_id,
        found.request_time.ToMicroseconds(),
        found.shred_time.ToMicroseconds(),
        rewrite_us,
    )


def _message(event: FeedbackEvent) -> events_pb2.FeedbackEvent:
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
    match event.value:
        case Thumb(up, reasons, comment):
            message.thumb.CopyFrom(events_pb2.Thumb(up=up, reasons=reasons, comment=comment))
        case Correction(text):
            message.correction.text = text
        case Retraction(subject):
            message.retraction.kind = subject
    return message
