"""F58: Valkey fails over to a copy that lacks the last writes.

Turns that run are written again, turns that ended keep their one answer, and a turn that the copy
still shows as running is not followed without end.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.older_copy import OlderCopy
from tests.servers import ValkeyServer, running
from tests.services.gateway.calls import (
    GeneratorGate,
    collect,
    counter_value,
    read_to_error,
    resume,
    resuming,
    until,
    until_text,
)
from tests.services.gateway.gateway_under_test import text_of
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


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_f58_turns_have_one_answer_after_a_failover_with_lost_writes(
    tmp_path: Path, own_valkey: ValkeyServer, record_property: Any
) -> None:
    older = OlderCopy(own_valkey, tmp_path / "valkey" / "appendonlydir")
    url = own_valkey.database()
    async with two_gateways(
        tmp_path, url, valkey_seconds=0.5, turn_lease_seconds=LEASE_SECONDS
    ) as (here, there):
        # Running in the copy, and ended after the copy.
        hold = GeneratorGate(here, at=2)
        call = here.send(request_id="stale")
        stale = await until_text(call)
        await hold.reached.wait()
        await asyncio.to_thread(older.take)
        await until_available()
        hold.go.set()
        stale += await collect(call)
        # Unknown to the copy: one turn that has ended, and one that runs during the failover.
        ended = await here.ask(request_id="ended")
        hold = GeneratorGate(here, at=2)
        call = here.send(request_id="running")
        seen = await until_text(call)
        await hold.reached.wait()
        answers = len(here.fakes.generator.requests)
        await asyncio.to_thread(older.fail_over)
        await until_available()
        # Written again by its gateway: a reader at the other gateway gets all events.
        follower = asyncio.create_task(resume(there, seen[0].message_id))
        hold.go.set()
        events = seen + await collect(call)
        assert await asyncio.wait_for(follower, RECOVERY_SECONDS) == events
        assert text_of(events) == text_of(ended) == text_of(stale) == ANSWER
        # The turn has ended in truth: its reader gets an error, and its request is answered.
        _, error = await asyncio.wait_for(
            read_to_error(resuming(there, stale[0].message_id)), RECOVERY_SECONDS
        )
        assert error.reason == "EVENTS_LOST"
        for request_id, before in (("running", events), ("ended", ended), ("stale", stale)):
            again = await there.ask(request_id=request_id)
            assert (again[0].message_id, text_of(again)) == (before[0].message_id, ANSWER)
        assert len(here.fakes.generator.requests) == answers, "a turn got a second answer"
        # The gateway that ran the turn has all events.
        assert await resume(here, stale[0].message_id) == stale
    record_property("fired", 1)
