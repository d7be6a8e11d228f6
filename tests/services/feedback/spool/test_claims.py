"""Claims in Postgres: one order for all replicas, first content, and cleanup by the commit."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine, select, text, update

from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.lake.ledger import Batch, Ledger
from services.feedback.projections.thumbs import Change, ThumbState, change_of
from services.feedback.spool.accept import Claim
from services.feedback.spool.claims import MARGIN, MIN_RAISE, PostgresClaims
from services.feedback.spool.log import Entry, Record
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError
from tests.services.feedback.samples import ADA, KEY, correction, entry, name, retraction, thumb
from tests.support.errors import refused


def change(said: Entry) -> Change | None:
    return change_of(codec.decode_feedback(Record(0, 0, said)), 0)


def claims_on(engine: Engine) -> PostgresClaims:
    return PostgresClaims(engine, "feedback", change)


def commit(engine: Engine, *entries: Entry) -> None:
    """Commit a batch like the sink."""
    ledger = Ledger(engine)
    lease = ledger.lease("feedback", "topic", 0)
    fingerprints = {said.event_id: said.fingerprint for said in entries}
    end = lease.end_offset + len(entries)
    ledger.commit(
        lease,
        Batch(end, "key", "hash", len(entries), [], fingerprints, list(fingerprints)),
        lambda c: None,
    )


def held(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return sorted(connection.execute(select(tables.claims.c.event_id)).scalars())


@pytest.fixture
def claims(postgres_engine: Engine) -> PostgresClaims:
    return claims_on(postgres_engine)


def test_events_are_ordered_by_arrival_across_replicas(
    claims: PostgresClaims, postgres_engine: Engine
) -> None:
    first = [entry(f"r{number}") for number in range(20)]
    taken = claims.claim(first)
    orders = [taken[said.event_id].accept_order for said in first]
    assert orders == sorted(orders)
    other = claims_on(postgres_engine).claim([entry("later")])
    assert other[entry("later").event_id].accept_order > orders[-1]


def move_order(engine: Engine, last_value: int) -> None:
    """Set the sequence, as a restore of an older database does."""
    with engine.begin() as connection:
        connection.execute(
            text("SELECT setval('feedback_accept_order', :value)"), {"value": last_value}
        )


def order_of(claims: PostgresClaims, request: str) -> int:
    return claims.claim([entry(request)])[entry(request).event_id].accept_order


@pytest.fixture
def order(postgres_engine: Engine) -> Iterator[Engine]:
    """Restore the sequence, shared with other tests, at the end."""
    yield postgres_engine
    postgres_engine.dispose()
    move_order(postgres_engine, 1)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_order_continues_after_a_failover_to_an_older_database(
    order: Engine, is_restarted: bool
) -> None:
    move_order(order, 100)
    first, second = claims_on(order), claims_on(order)
    before = max(order_of(first, "a"), order_of(second, "b"))
    move_order(order, 5)
    # A failover ends all connections.
    order.dispose()
    # `first` has not seen the highest order, and a restarted replica has seen none.
    assert order_of(claims_on(order) if is_restarted else first, "c") > before


def test_order_continues_if_the_clock_of_the_database_is_behind(order: Engine) -> None:
    ahead = 500_000_000_000_000_000
    move_order(order, ahead)
    claims = claims_on(order)
    assert order_of(claims, "a") == ahead + 1
    move_order(order, 5)
    order.dispose()
    assert order_of(claims, "b") > ahead + MARGIN


def test_order_continues_above_the_write_ahead_log(order: Engine, claims: PostgresClaims) -> None:
    ahead = 500_000_000_000_000_000
    claims.observe([Record(0, 0, replace(entry("a"), accept_order=ahead))])
    assert order_of(claims, "b") > ahead


def test_nothing_is_claimed_while_the_order_is_behind(order: Engine) -> None:
    claims = claims_on(order)
    before = order_of(claims, "a")
    move_order(order, 5)
    with refused(LedgerUnavailableError, reason="FEEDBACK_LEDGER_UNAVAILABLE"):
        order_of(claims, "b")
    assert held(order) == [entry("a").event_id]
    assert order_of(claims, "b") > before


def test_a_running_order_is_not_raised_again(order: Engine) -> None:
    first = order_of(claims_on(order), "a")
    order.dispose()
    assert order_of(claims_on(order), "b") <= first + MIN_RAISE + 1


def test_a_repeated_event_keeps_its_order_and_first_content(
    claims: PostgresClaims, postgres_engine: Engine
) -> None:
    event_id = entry("a").event_id
    first = claims.claim([entry("a")])[event_id]
    again = claims_on(postgres_engine).claim([entry("a", up=False)])[event_id]
    assert first == again == Claim(entry("a").fingerprint, first.accept_order)


def test_a_committed_event_is_known_and_its_claim_is_gone(
    claims: PostgresClaims, postgres_engine: Engine
) -> None:
    claims.claim([entry("a"), entry("b")])
    commit(postgres_engine, entry("a"))
    assert held(postgres_engine) == [entry("b").event_id]
    found = claims.claim([entry("a", up=False)])
    assert found[entry("a").event_id] == Claim(entry("a").fingerprint, 0, True)
    assert held(postgres_engine) == [entry("b").event_id], "claiming it again left nothing"


def test_a_claim_that_waits_for_a_commit_sees_what_was_committed(
    claims: PostgresClaims, postgres_engine: Engine
) -> None:
    claims.claim([entry("a")])
    found: list[Claim] = []
    lying = entry("a", up=False)
    ledger = Ledger(postgres_engine)
    lease = ledger.lease("feedback", "topic", 0)
    fingerprints = {lying.event_id: entry("a").fingerprint}
    thread = threading.Thread(target=lambda: found.append(claims.claim([lying])[lying.event_id]))

    def meanwhile(_connection: object) -> None:
        # The claim's row is deleted but not committed, so a second claim must wait.
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()

    ledger.commit(
        lease, Batch(1, "key", "hash", 1, [], fingerprints, list(fingerprints)), meanwhile
    )
    thread.join(20)
    assert found == [Claim(entry("a").fingerprint, 0, True)]


def test_a_shared_claim_is_not_released(claims: PostgresClaims, postgres_engine: Engine) -> None:
    claims.claim([entry("mine"), entry("shared")])
    claims_on(postgres_engine).claim([entry("shared")])
    claims.release([entry("mine").event_id, entry("shared").event_id, entry("never").event_id])
    assert held(postgres_engine) == [entry("shared").event_id]


def test_stale_claims_are_deleted_by_the_databases_clock(
    claims: PostgresClaims, postgres_engine: Engine
) -> None:
    claims.claim([entry("old"), entry("new")])
    with postgres_engine.begin() as connection:
        table = tables.claims
        old = update(table).where(table.c.event_id == entry("old").event_id)
        connection.execute(old.values(claim_us=table.c.claim_us - 10_000_000))
    assert claims.sweep(5.0) == 1
    assert held(postgres_engine) == [entry("new").event_id]


def test_concurrent_claims_never_deadlock(postgres_engine: Engine) -> None:
    events = [entry(f"r{number}") for number in range(60)]
    orders: list[list[int]] = []
    failures: list[Exception] = []

    def claim(step: int) -> None:
        mine = claims_on(postgres_engine)
        for turn in range(5):
            some = [*events[(step * turn) % 60 :], *events[: (step * turn) % 60]]
            try:
                taken = mine.claim(some)
            except LedgerUnavailableError as error:
                failures.append(error)
            else:
                orders.append([taken[said.event_id].accept_order for said in events])

    threads = [threading.Thread(target=claim, args=(step,)) for step in (7, 11, 13, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, len(orders)) == ([], 20)
    assert all(order == orders[0] for order in orders)


async def test_the_newest_claimed_thumb_per_user_and_message_is_returned(
    claims: PostgresClaims,
) -> None:
    said = [
        thumb("a"),
        thumb("b", up=False),
        thumb("c", message="n"),
        retraction("d", message="n"),
        correction("e"),
    ]
    taken = claims.claim([codec.feedback_entry(event) for event in said])
    principal = principal_of(KEY, ADA)
    m, n = (principal, name("m")), (principal, name("n"))
    orders = [taken[event.event_id].accept_order for event in said]
    expected = {
        m: ThumbState(False, "v1", "stable", 1_000_000_000, orders[1]),
        n: ThumbState(None, "v1", "stable", 1_000_000_000, orders[3]),
    }
    assert await claims.latest(None) == expected
    assert await claims.latest({m}) == {m: expected[m]}
    assert await claims.latest({(principal, name("other"))}) == {}


def test_streams_have_separate_claims(claims: PostgresClaims, postgres_engine: Engine) -> None:
    turns = PostgresClaims(postgres_engine, "turns", lambda said: None)
    claims.claim([entry("a")])
    other = replace(entry("a"), fingerprint=bytes(32))
    assert turns.claim([other])[other.event_id].fingerprint == bytes(32)


def test_without_the_database_nothing_is_claimed(
    claims: PostgresClaims, postgres_engine: Engine
) -> None:
    with postgres_engine.begin() as connection:
        connection.execute(text("ALTER TABLE claims RENAME TO elsewhere"))
    try:
        with refused(LedgerUnavailableError, reason="FEEDBACK_LEDGER_UNAVAILABLE"):
            claims.claim([entry("a")])
    finally:
        with postgres_engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO claims"))
