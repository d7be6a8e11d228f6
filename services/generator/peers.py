"""Client of the feedback service, for the watch after a promotion."""

from collections.abc import Mapping, Sequence
from typing import Any

from sequential.figures import VersionFigures
from services.chassis.channel import call_unary
from services.generator.wire import version_feedback_from, version_feedback_request


class FeedbackPeer:
    """Implementation of `FeedbackCounts` with the method GetVersionFeedback.

    Args:
        get_version_feedback: method of the stub.
        timeout_seconds: timeout of a call.
    """

    def __init__(self, get_version_feedback: Any, timeout_seconds: float) -> None:
        self._get = get_version_feedback
        self._timeout_seconds = timeout_seconds

    async def version_feedback(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, VersionFigures]:
        """Return the feedback on answers since a time, by version.

        Raises:
            ServiceError: the service does not answer, or does not know the method.
        """
        request = version_feedback_request(versions, since_us)
        reply = await call_unary(
            "feedback", self._get, request, within_seconds=self._timeout_seconds
        )
        return version_feedback_from(reply)
