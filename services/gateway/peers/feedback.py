"""The feedback service's log."""

from collections.abc import Mapping, Sequence

from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import AlreadyExistsError, UnavailableError
from services.gateway.feedback import Correction, Durability, FeedbackEvent, Retraction, Thumb

PEER = "feedback"
DURABILITIES = {feedback_pb2.DURABILITY_SPOOL: Durability.SPOOL}
# Limit of GetThumbsRequest.
MAX_THUMBS_A_CALL = 1_000


class FeedbackPeer:
    """See `feedback.FeedbackLog`."""

    def __init__(self, stub: feedback_pb2_grpc.FeedbackLogServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def record(self, event: FeedbackEvent) -> Durability:
        """See `feedback.FeedbackLog`."""
        request = feedback_pb2.RecordFeedbackRequest(event=_message(event))
        try:
            response = await call_unary(PEER, self._stub.RecordFeedback, request, within_seconds=self._within_seconds)
        except AlreadyExistsError as error:
            # The caller knows the id that the event's is made from.
            raise AlreadyExistsError(
                "request_id was used to say something else; the first stands",
                field="request_id",
                limit="one content a request_id",
            ) from error
        if response.durability not in DURABILITIES:
            raise UnavailableError(
                "the feedback service does not say where the event is", reason="FEEDBACK_UNAVAILABLE"
            )
        return DURABILITIES[response.durability]

    async def thumbs(self, message_ids: Sequence[str]) -> Mapping[str, bool]:
        """The caller's standing thumbs: message id → up."""
        found: dict[str, bool] = {}
        for start in range(0, len(message_ids), MAX_THUMBS_A_CALL):
            request = feedback_pb2.GetThumbsRequest(message_ids=message_ids[start : start + MAX_THUMBS_A_CALL])
            response = await call_unary(PEER, self._stub.GetThumbs, request, within_seconds=self._within_seconds)
            found.update(response.thumbs)
        return found


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
