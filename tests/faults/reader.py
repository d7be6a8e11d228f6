"""A client as it should be: it asks one gateway and goes on through another, waits where it is told
to, and remembers what it saw.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ResourceExhaustedError, ServiceError, from_rpc
from tests.services.gateway.calls import resuming
from tests.services.gateway.gateway_under_test import GatewayUnderTest, text_of

# A busy gateway says when to come back; one that says so for ever is not to be waited for.
MOST_REFUSALS = 20


@dataclass
class Reader:
    """One turn, as its client sees it. `moves`: why it went on elsewhere, each time; `refusals`:
    how often it was told to wait first.
    """

    request_id: str
    events: list[chat_pb2.ChatEvent] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    refusals: int = 0
    first_text: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, first: GatewayUnderTest, then: GatewayUnderTest) -> ServiceError | None:
        """To the end: the error that ended the turn, or None."""
        call = self._begin(first)
        while True:
            try:
                await self._take(call)
                return None
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc(rpc_error, "gateway")
            if isinstance(error, ResourceExhaustedError) and self.refusals < MOST_REFUSALS:
                self.refusals += 1
                await asyncio.sleep(error.retry_seconds or 1)
            elif not self.events or self.moves:
                return error
            else:
                self.moves.append(error.reason)
            call = self._go_on(first, then)

    def _go_on(self, first: GatewayUnderTest, then: GatewayUnderTest) -> Any:
        """The turn is begun where nothing is known of it; what was begun is read on, where its
        gateway sent us if it did.
        """
        if not self.events:
            return self._begin(first)
        return resuming(then if self.moves else first, self.message_id, self.events[-1].sequence)

    def _begin(self, first: GatewayUnderTest) -> Any:
        return first.send(f"Question {self.request_id}", request_id=self.request_id, timeout=60)

    async def _take(self, call: Any) -> None:
        async for event in call:
            self.events.append(event)
            if event.HasField("text_delta"):
                self.first_text.set()

    @property
    def message_id(self) -> str:
        return self.events[0].message_id

    @property
    def text(self) -> str:
        return text_of(self.events)

    def check_order(self) -> None:
        """1, 2, 3 … of one message: nothing twice, nothing missing."""
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))
        assert {event.message_id for event in self.events} == {self.message_id}
