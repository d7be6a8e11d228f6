"""Readers of a turn in another gateway that join while a query for others is on its way."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from thumbwheel.chat.v1 import chat_pb2

from services.gateway.background_tasks import background_tasks
from services.gateway.shared.encryption import Encryptor, KeyDerivation
from services.gateway.shared.remote_readers import RemoteReaders
from services.gateway.shared.turn_log import TurnState

KEYS = KeyDerivation("a secret that only tests know")
STATE = TurnState("message", "attempt", "other gateway")
EVENTS = [
    chat_pb2.ChatEvent(sequence=number, text_delta=chat_pb2.TextDelta(text="word"))
    for number in range(1, 7)
]


class Log:
    """A log with one ended turn. Each query waits for `go`."""

    def __init__(self) -> None:
        self.go, self.queries = asyncio.Event(), 0

    def encryptor(self, stream: str) -> Encryptor:
        return KEYS.encryptor(stream)

    async def read(
        self, after: Mapping[str, int]
    ) -> Mapping[str, Sequence[tuple[int, bytes, bytes]]]:
        self.queries += 1
        await self.go.wait()
        sealer = KEYS.encryptor(STATE.stream)
        entries = [
            (event.sequence, b"event", sealer.encrypt(event.SerializeToString()))
            for event in EVENTS
        ]
        entries.append((len(EVENTS) + 1, b"end", sealer.encrypt(b"")))
        return {stream: entries[last:] for stream, last in after.items()}

    async def is_alive(self, gateway: str) -> bool:
        return True

    async def state(self, message_id: str) -> TurnState:
        return STATE


async def test_reader_that_joins_during_a_query_gets_its_earlier_events() -> None:
    """The query began at the position of other readers: its first entry looked like a gap."""
    log: Any = Log()
    readers = RemoteReaders(log, poll_seconds=0.001, lease_seconds=60)

    async def read(after: int) -> list[int]:
        return [event.sequence async for event in readers.follow(STATE, after)]

    async with asyncio.timeout(20), background_tasks(readers.serve):
        earlier = asyncio.create_task(read(4))
        while not log.queries:
            await asyncio.sleep(0)
        joining = [asyncio.create_task(read(after)) for after in (0, 2, 4, 5)]
        await asyncio.sleep(0)
        log.go.set()
        assert await earlier == [5, 6]
        assert await asyncio.gather(*joining) == [[1, 2, 3, 4, 5, 6], [3, 4, 5, 6], [5, 6], [6]]
