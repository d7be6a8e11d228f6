"""A client as it should be: it asks one gateway and goes on through another, and remembers what it saw."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ServiceError, from_rpc
from tests.services.gateway.calls import resuming
from tests.services.gateway.house import House, text_of


@dataclass
class Reader:
    """One turn, as its client sees it. `moves`: why it went on elsewhere, each time."""

    request_id: str
    events: list[chat_pb2.ChatEvent] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    first_text: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, first: House, then: House) -> ServiceError | None:
        """To the end: the error that ended the turn, or None."""
        call: Any = first.send(f"Question {self.request_id}", request_id=self.request_id, timeout=60)
        while True:
            try:
                await self._take(call)
                return None
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc(rpc_error, "gateway")
            if not self.events or self.moves:
                return error
            self.moves.append(error.reason)
            call = resuming(then, self.message_id, self.events[-1].sequence)

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
