"""Client of the enhancer service."""

from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.channel import call_unary
from services.contracts.chat import Prompt
from services.contracts.wire import text_edits


class EnhancerPeer:
    """Implements the protocol `prompts.Enhancer`."""

    def __init__(self, stub: enhancer_pb2_grpc.EnhancerServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def enhance(self, text: str) -> Prompt:
        """Implement the method `Enhancer.enhance`."""
        request = enhancer_pb2.EnhanceRequest(text=text)
        response = await call_unary(
            "enhancer", self._stub.Enhance, request, within_seconds=self._within_seconds
        )
        return Prompt(text, response.text, text_edits(response.edits))
