"""F58: Valkey fails over to a copy that lacks the last writes.

Turns that run, or whose end was not yet written, are written again. Turns that ended keep their one
answer, and a turn that the copy still shows as running is not followed without end.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2

from tests.faults.older_copy import OlderCopy
from tests.servers import ValkeyServer, running
from tests.services.gateway.calls import (
    GeneratorGate,
    collect,
    counter_value,
    read_to_error,
    resume,
    resume_when_published,
    resuming,
    until,
    until_text,
)
from tests.services.gateway.gateway_under_test import GatewayUnderTest, text_of
from tests.services.gateway.two_gateways import two_gateways

ANSWER = "The answer is 42."
LEASE_SECONDS, RECOVERY_SECONDS = 1.0, 60.0


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running(ValkeyServer(tmp_path / "valkey")) as server:
        yield server


async def until_available() -> None:
    await until(
        lambda: counter_value("thumbwheel_gateway_valkey_up", store="valkey") == 1, RECOVERY_SECONDS
    )
    # The second gateway of the process notices at its next probe.
    await asyncio.sleep(1.0)


@dataclass(frozen=True)
class HeldTurn:
    """A turn whose generator waits after the first text."""

    call: Any
    seen: list[chat_pb2.ChatEvent]
    hold: GeneratorGate

    @property
    def message_id(self) -> str:
        """Id of the answer."""
        return self.seen[0].message_id

    async def finish(self) -> list[chat_pb2.ChatEvent]:
        """Let the generator continue, and return all events of the turn."""
        self.hold.go.set()
        return self.seen + await collect(self.call)


async def send_and_hold(gateway: GatewayUnderTest, request_id: str) -> HeldTurn:
    """Start a turn and hold its generator after the first text."""
    hold = GeneratorGate(gateway, at=2)
    call = gateway.send(request_id=request_id, timeout=RECOVERY_SECONDS)
    seen = await until_text(call)
    await hold.reached.wait()
    # Later turns are not held.
    gateway.fakes.generator.gate = None
    return HeldTurn(call, seen, hold)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_f58_turns_have_one_answer_after_a_failover_with_lost_writes(
    tmp_path: Path, own_valkey: ValkeyServer, record_property: Any
) -> None:
    older = OlderCopy(own_valkey, tmp_path / "valkey" / "appendonlydir")
    async with two_gateways(tmp_path, own_valkey.database(), turn_lease_seconds=LEASE_SECONDS) as (
        here,
        there,
    ):

        async def read_there(message_id: str) -> list[chat_pb2.ChatEvent]:
            return await resume_when_published(there, message_id, RECOVERY_SECONDS)

        # Running in the copy. The end of one is in Valkey before the failover, of the other not.
        held, unpublished = await send_and_hold(here, "stale"), await send_and_hold(here, "late")
        await asyncio.to_thread(older.take)
        await until_available()
        # Until its end is in Valkey, a turn is written again after a failover.
        stale = await held.finish()
        assert await read_there(held.message_id) == stale
        # Unknown to the copy: one turn that has ended, and one that runs during the failover.
        ended = await here.ask(request_id="ended")
        assert await read_there(ended[0].message_id) == ended
        running_turn = await send_and_hold(here, "running")
        own_valkey.kill()
        late = await unpublished.finish()
        answers = len(here.fakes.generator.requests)
        await asyncio.to_thread(older.start)
        await until_available()
        # Written again by their gateway: a reader at the other gateway gets all events.
        follower = asyncio.create_task(read_there(running_turn.message_id))
        events = await running_turn.finish()
        assert await follower == events
        assert await read_there(unpublished.message_id) == late
        # The turn has ended in truth: its reader gets an error, and its request is answered.
        _, error = await asyncio.wait_for(
            read_to_error(resuming(there, held.message_id)), RECOVERY_SECONDS
        )
        assert error.reason == "EVENTS_LOST"
        turns = {"running": events, "late": late, "ended": ended, "stale": stale}
        for request_id, before in turns.items():
            assert text_of(before) == ANSWER
            again = await there.ask(request_id=request_id)
            assert (again[0].message_id, text_of(again)) == (before[0].message_id, ANSWER)
        assert len(here.fakes.generator.requests) == answers, "a turn got a second answer"
        # The gateway that ran the turn has all events.
        assert await resume(here, held.message_id) == stale
    record_property("fired", 1)
