"""Clients that chat during a fault, their history, and the final checks.

Like the gateway, a client repeats a call until acknowledged, alternating between replicas. Every
error on the way must be retryable. The history records all of them.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from services.chassis.errors import from_rpc
from tests.services.session.service import ADA, FakeFeedback, begin, finish, read_messages

COME_BACK = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
DEADLINE_SECONDS = 10.0
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class AcknowledgedTurn:
    """One turn acknowledged to its end, with times in seconds on a common clock."""

    text: str
    answer: str
    conversation_id: str
    question_id: str
    answer_id: str
    asked_at: float
    begun_at: float


@dataclass
class History:
    """Everything that clients were promised."""

    turns: list[AcknowledgedTurn] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    async def call_until_acknowledged(
        self, replicas: Sequence[Any], method: str, request: Any
    ) -> Any:
        """Repeat a call until acknowledged."""
        for stub in itertools.cycle(replicas):
            try:
                return await getattr(stub, method)(request, timeout=DEADLINE_SECONDS, metadata=ADA)
            except grpc.aio.AioRpcError as error:
                ours = from_rpc(error, "session")
                assert error.code() in COME_BACK, f"{method}: {error.code().name} {ours.reason}"
                assert ours.retry_seconds or ours.reason == "SESSION_UNAVAILABLE", (
                    "no time to come back"
                )
                self.errors[ours.reason] += 1
                await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("the loop returns or raises")

    async def talk(
        self, replicas: Sequence[Any], text: str, conversation_id: str = ""
    ) -> AcknowledgedTurn:
        """Run a complete turn."""
        asked_at = time.monotonic()
        request = begin(text, conversation_id=conversation_id, request_id=text)
        turn = await self.call_until_acknowledged(replicas, "BeginTurn", request)
        begun_at = time.monotonic()
        await self.call_until_acknowledged(
            replicas, "FinishTurn", finish(turn.assistant_message_id, f"re: {text}")
        )
        acknowledged = AcknowledgedTurn(
            text,
            f"re: {text}",
            turn.conversation_id,
            turn.user_message_id,
            turn.assistant_message_id,
            asked_at,
            begun_at,
        )
        self.turns.append(acknowledged)
        return acknowledged


async def talk_during(
    history: History,
    replicas: Sequence[Any],
    broken: Callable[[], Awaitable[None]],
    clients: int = 4,
) -> None:
    """Run clients, each in its own conversation, before, during and after the fault `broken`."""
    over = asyncio.Event()

    async def client(number: int) -> None:
        conversation_id, after = "", 3
        for turn in itertools.count():
            finished = await history.talk(
                replicas[number % 2 :] + replicas[: number % 2], f"{number}-{turn}", conversation_id
            )
            conversation_id = finished.conversation_id
            after -= over.is_set()
            if not after:
                return

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        await asyncio.sleep(0.3)
        await broken()
        over.set()


async def check(history: History, stub: Any, feedback: FakeFeedback) -> None:
    """Check the database against the history.

    Every acknowledged turn exists exactly once, no other turn exists, and all are published in
    order.
    """
    assert history.turns
    for conversation_id in {turn.conversation_id for turn in history.turns}:
        stored = await read_messages(stub, conversation_id, timeout=DEADLINE_SECONDS)
        acknowledged = [turn for turn in history.turns if turn.conversation_id == conversation_id]
        expected = sorted(
            (turn.question_id, turn.answer_id, turn.text, turn.answer) for turn in acknowledged
        )
        found = [
            (q.id, a.id, q.text, a.text) for q, a in zip(stored[::2], stored[1::2], strict=True)
        ]
        assert sorted(found) == expected
        await _check_published([answer.id for answer in stored[1::2]], conversation_id, feedback)


async def _check_published(
    answer_ids: list[str], conversation_id: str, feedback: FakeFeedback
) -> None:
    def published() -> list[str]:
        events = {
            e.event_id: e.message_id for e in feedback.turns if e.conversation_id == conversation_id
        }
        return list(events.values())

    async with asyncio.timeout(20):
        while set(published()) != set(answer_ids):
            await asyncio.sleep(0.05)
    assert len(published()) == len(answer_ids), "one event for each turn"
