"""Expiry of dead letters: the entry stays, the payload is cleared."""

import asyncio
import base64

from sqlalchemy import Connection, Engine, select

from services.feedback.lake.ledger import Batch, DeadLetter, Ledger
from services.feedback.sink.dead_letters import clear_payloads, clear_payloads_hourly
from services.feedback.store import tables

TOPIC = "11111111-1111-1111-1111-111111111111"
SECOND_US = 1_000_000


def nothing(connection: Connection) -> None:
    pass


def fill(engine: Engine, *times_us: int) -> None:
    """Commit a segment with one dead letter."""
    times = iter(times_us)
    ledger = Ledger(engine, now_us=lambda: next(times))
    lease = ledger.lease("feedback", TOPIC, 0)
    for end in range(1, len(times_us) + 1):
        letters = [DeadLetter(end - 1, "not valid protobuf", b"\xffwords")]
        lease, _ = ledger.commit(lease, Batch(end, "", "", 0, letters, {}, ()), nothing)


def payloads(engine: Engine) -> list[bytes]:
    query = select(tables.dead_letters.c.payload_base64).order_by(tables.dead_letters.c.offset)
    with engine.begin() as connection:
        return [base64.b64decode(payload) for payload in connection.execute(query).scalars()]


def test_old_dead_letters_are_cleared_and_still_counted(engine: Engine) -> None:
    fill(engine, 5, 9)
    assert clear_payloads(engine, 5) == 0
    assert clear_payloads(engine, 6) == 1
    assert payloads(engine) == [b"", b"\xffwords"]
    assert clear_payloads(engine, 6) == 0
    assert Ledger(engine).dead_letter_offsets(TOPIC, 0) == {0, 1}


async def test_the_service_clears_old_dead_letters(engine: Engine) -> None:
    fill(engine, 1 * SECOND_US, 50 * SECOND_US)
    sweeping = asyncio.create_task(
        clear_payloads_hourly(engine, 30.0, now_us=lambda: 60 * SECOND_US)
    )
    async with asyncio.timeout(10):
        while payloads(engine)[0]:
            await asyncio.sleep(0.01)
    sweeping.cancel()
    assert payloads(engine) == [b"", b"\xffwords"]
