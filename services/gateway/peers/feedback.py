"""Client of the feedback service."""

from collections.abc import Sequence

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import ResponseT, UnaryMethod, call_unary
from services.chassis.errors import AlreadyExistsError, NotFoundError, UnavailableError

PEER = "feedback"
# Largest number of answers whose feedback fits into a 4 MiB message, at 43 KB of text per answer.
MAX_THUMBS_A_CALL = 90


class FeedbackPeer:
    """Implements `feedback.FeedbackLog` and `own_data.OwnLog`; all methods raise ServiceError."""

    def __init__(
        self, stub: feedback_pb2_grpc.FeedbackLogServiceStub, within_seconds: float
    ) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def record(self, event: events_pb2.FeedbackEvent) -> feedback_pb2.Durability.ValueType:
        request = feedback_pb2.RecordFeedbackRequest(event=event)
        try:
            response = await self._call(self._stub.RecordFeedback, request)
        except AlreadyExistsError as error:
            # The caller knows the request_id from which the event_id was derived.
            raise AlreadyExistsError(
                "request_id was already used with other feedback",
                field="request_id",
                limit="one content per request_id",
            ) from error
        if response.durability != feedback_pb2.DURABILITY_SPOOL:
            raise UnavailableError(
                "the feedback service reported no durability",
                reason="FEEDBACK_UNAVAILABLE",
            )
        return response.durability

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
        return await self._call(self._stub.GetExperiment, feedback_pb2.GetExperimentRequest())

    async def count_thumbs(self, since: Timestamp | None) -> feedback_pb2.CountThumbsResponse:
        """Return current thumbs of all users by version, since a time if given."""
        request = feedback_pb2.CountThumbsRequest(since=since)
        return await self._call(self._stub.CountThumbs, request)

    async def consent(self) -> feedback_pb2.Consent:
        """Return the consent of the current caller."""
        request = feedback_pb2.GetPrincipalConsentRequest()
        return (await self._call(self._stub.GetPrincipalConsent, request)).consent

    async def set_consent(self, *, training: bool) -> feedback_pb2.Consent:
        """Set the caller's consent, valid from the next training run."""
        request = feedback_pb2.SetPrincipalConsentRequest(training=training)
        return (await self._call(self._stub.SetPrincipalConsent, request)).consent

    async def erase_principal(self) -> feedback_pb2.Erasure:
        request = feedback_pb2.ErasePrincipalRequest()
        return _confirmed((await self._call(self._stub.ErasePrincipal, request)).erasure)

    async def erasure(self, erasure_id: str) -> feedback_pb2.Erasure:
        """Return the progress of an erasure of the caller.

        Raises:
            NotFoundError: The erasure is unknown or belongs to another user.
        """
        request = feedback_pb2.GetPrincipalErasureRequest(erasure_id=erasure_id)
        try:
            return _confirmed((await self._call(self._stub.GetPrincipalErasure, request)).erasure)
        except NotFoundError as error:
            raise NotFoundError("the erasure is unknown", field="erasure_id") from error

    async def _call(self, method: UnaryMethod[ResponseT], request: Message) -> ResponseT:
        return await call_unary(PEER, method, request, within_seconds=self._within_seconds)


def _confirmed(erasure: feedback_pb2.Erasure) -> feedback_pb2.Erasure:
    if not erasure.HasField("shred_time"):
        raise UnavailableError(
            "the feedback service reported no time of key destruction",
            reason="FEEDBACK_UNAVAILABLE",
        )
    return erasure
