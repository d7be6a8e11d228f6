"""Client of the enhancer service."""

from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.session.v1 import session_pb2

from services.chassis.channel import call_unary


class EnhancerPeer:
    """Corrects texts of users."""

    def __init__(self, stub: enhancer_pb2_grpc.EnhancerServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def enhance(self, text: str) -> session_pb2.UserMessage:
        """Return the text with corrections.

        Raises:
            ServiceError: The enhancer failed.
        """
        request = enhancer_pb2.EnhanceRequest(text=text)
        response = await call_unary(
            "enhancer", self._stub.Enhance, request, within_seconds=self._within_seconds
        )
        return session_pb2.UserMessage(original_text=text, text=response.text, edits=response.edits)
