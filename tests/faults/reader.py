"""A correct client: resumes through another gateway, respects delays, records events."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ResourceExhaustedError, ServiceError, from_rpc
from tests.services.gateway.calls import resuming
from tests.services.gateway.gateway_under_test import GatewayUnderTest, text_of

# Limit on retries at a busy gateway.
MOST_REFUSALS = 20


@dataclass
class Reader:
    """One turn from the client's view.

    `moves` has the reasons for changes of the gateway, `refusals` the number of requested waits.
    """

    request_id: str
    events: list[chat_pb2.ChatEvent] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    refusals: int = 0
    first_text: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, first: GatewayUnderTest, then: GatewayUnderTest) -> ServiceError | None:
        """Read to the end. Returns the error of the turn, or None."""
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
            call = self._resume_or_begin(first, then)

    def _resume_or_begin(self, first: GatewayUnderTest, then: GatewayUnderTest) -> Any:
        """Begin the turn if no id is known, otherwise resume, elsewhere if requested."""
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
        """Check that the sequences of the message have neither repetition nor gap."""
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))
        assert {event.message_id for event in self.events} == {self.message_id}
