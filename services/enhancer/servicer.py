"""Translates between the protocol and the enhancer. Long texts are corrected in a thread, one at a
time.
"""

import asyncio
from typing import Any

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.errors import InvalidArgumentError
from services.enhancer.prompt import Enhancement, Enhancer

NAME = "thumbwheel.enhancer.v1.EnhancerService"

MAX_TEXT_CHARACTERS = 32_768
# Below, the work takes a few milliseconds and a thread would cost more than it gives.
INLINE_CHARACTERS = 400


class EnhancerServicer(enhancer_pb2_grpc.EnhancerServiceServicer):
    """Checks the limits of the protocol, asks the enhancer, and puts its answer in a message."""

    def __init__(self, enhancer: Enhancer) -> None:
        self._enhancer = enhancer
        # Harper's linter refuses two threads at once.
        self._alone = asyncio.Lock()

    async def Enhance(
        self, request: enhancer_pb2.EnhanceRequest, context: Any
    ) -> enhancer_pb2.EnhanceResponse:
        if not 1 <= len(request.text) <= MAX_TEXT_CHARACTERS:
            raise InvalidArgumentError(
                f"text has {len(request.text)} characters",
                field="text",
                limit=f"1 to {MAX_TEXT_CHARACTERS:,} characters",
            )
        enhancement = await self._enhance(request.text)
        edits = [
            chat_pb2.TextEdit(
                start=edit.start, end=edit.end, replacement=edit.replacement, kind=edit.kind
            )
            for edit in enhancement.edits
        ]
        return enhancer_pb2.EnhanceResponse(
            text=enhancement.text, edits=edits, skipped=enhancement.skipped
        )

    async def _enhance(self, text: str) -> Enhancement:
        async with self._alone:
            if len(text) <= INLINE_CHARACTERS:
                return self._enhancer.enhance(text)
            return await asyncio.to_thread(self._enhancer.enhance, text)
