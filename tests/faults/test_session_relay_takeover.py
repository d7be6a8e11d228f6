"""The relaying replica is killed during a batch.

Another takes over within seconds, in order and without loss.
"""

import asyncio
import time

import pytest

from tests.services.session.processes import running
from tests.services.session.service import FakeFeedback, Home, feedback_service, talk
from tests.services.session.tokenizer import write_tokenizer

LEASE_SECONDS = 1.0


@pytest.mark.slow
async def test_relay_killed_during_a_batch_is_taken_over_within_seconds(
    postgres_home: Home,
) -> None:
    write_tokenizer(postgres_home.directory)
    feedback = FakeFeedback(failures=["hang"])
    async with feedback_service(feedback) as port:
        settings = {"feedback_target": f"127.0.0.1:{port}", "relay_lease_seconds": LEASE_SECONDS}
        async with (
            running(postgres_home, **settings) as (leader, process),
            running(postgres_home, **settings) as (standby, _),
        ):
            first = await talk(leader, "one", "yes")
            await asyncio.wait_for(feedback.hanging.wait(), 10)
            turns = [first] + [
                await talk(standby, f"more {n}", "yes", first.conversation_id) for n in range(3)
            ]
            assert not feedback.turns, "the standby sends nothing while the other one lives"
            process.kill()
            killed_at = time.monotonic()
            async with asyncio.timeout(20):
                while len(feedback.turns) < len(turns):
                    await asyncio.sleep(0.02)
            took_over_after = time.monotonic() - killed_at
    assert [event.message_id for event in feedback.turns] == [
        turn.assistant_message_id for turn in turns
    ]
    assert took_over_after < 15, "seconds: a lease, two looks at it, and room for a busy machine"
