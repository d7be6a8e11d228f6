"""Servicer of EnhancerService: checks limits, calls the enhancer.

Texts are corrected in a thread, one at a time. An ordinary prompt takes a millisecond, but a text
of repeated letters or marks up to 40, for which the event loop must not wait.
"""

from typing import Any

from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.threads import BoundedThreads
from services.contracts.limits import MAX_TEXT_CHARACTERS, field_error
from services.enhancer.prompt import Enhancer

NAME = "thumbwheel.enhancer.v1.EnhancerService"


class EnhancerServicer(enhancer_pb2_grpc.EnhancerServiceServicer):
    """Implementation of the service in proto/thumbwheel/enhancer/v1."""

    def __init__(self, enhancer: Enhancer) -> None:
        self._enhancer = enhancer
        self._threads = BoundedThreads(1, "enhancer")

    async def Enhance(
        self, request: enhancer_pb2.EnhanceRequest, context: Any
    ) -> enhancer_pb2.EnhanceResponse:
        if not 1 <= len(request.text) <= MAX_TEXT_CHARACTERS:
            raise field_error(
                "text", f"1 to {MAX_TEXT_CHARACTERS:,} characters", f"{len(request.text):,}"
            )
        text = request.text
        return await self._threads.run(lambda _: self._enhancer.enhance(text))
