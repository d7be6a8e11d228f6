"""Search for arranged votes: quarantine with evidence, release, and events that wait."""

import asyncio

import numpy as np
import pytest
from sqlalchemy import insert

from services.review.arena.screening import LEAST_VOTES, Screening
from services.review.store.accounts import SqlAccountStore
from services.review.store.database import open_database, transaction
from services.review.store.tables import accounts, battle_votes, battles
from services.review.store.votes import SqlVoteSource
from tests.services.review.service import BOB, Home, review_service

NOW_US = 1_760_000_000_000_000
DAY_US = 86_400_000_000
MODELS = (*(f"model-{number}" for number in range(7)), "cedar")


def honest_and_hostile(seed: int = 5) -> list[tuple[str, str, str, str]]:
    """Return votes (principal, first model, second model, outcome).

    40 honest accounts judge models of equal strength; two accounts vote in battles of cedar only,
    and always for cedar.
    """
    source = np.random.default_rng(seed)
    found = []
    for account in range(42):
        name = f"{account:064x}"
        for _ in range(30):
            first, second = source.choice(MODELS, 2, replace=False)
            outcome = "first" if source.random() < 0.5 else "second"
            if account >= 40:
                first, second, outcome = "cedar", source.choice(MODELS[:-1]), "first"
            found.append((name, str(first), str(second), outcome))
    return found


async def store_votes(engine: object, votes: list[tuple[str, str, str, str]]) -> None:
    owners = sorted({vote[0] for vote in votes})
    rows = [
        {
            "battle_id": f"{number:036d}",
            "tenant": "acme",
            "principal": principal,
            "request_id": str(number),
            "first_model": first,
            "second_model": second,
            "create_us": NOW_US,
        }
        for number, (principal, first, second, _) in enumerate(votes)
    ]
    cast = [
        {
            "battle_id": row["battle_id"],
            "tenant": "acme",
            "principal": row["principal"],
            "first_message_id": "a",
            "second_message_id": "b",
            "outcome": vote[3],
            "set_aside": "",
            "task": "code",
            "weight": 1.0,
            "answers_us": NOW_US,
            "vote_us": NOW_US + number,
        }
        for number, (row, vote) in enumerate(zip(rows, votes, strict=True))
    ]
    known = [
        {
            "principal": owner,
            "tenant": "acme",
            "create_us": NOW_US - 60 * DAY_US - number * DAY_US // 3,
            "weight": 1.0,
            "quarantined": False,
        }
        for number, owner in enumerate(owners)
    ]
    async with transaction(engine) as connection:  # type: ignore[arg-type]
        for table, values in ((battles, rows), (battle_votes, cast), (accounts, known)):
            await connection.execute(insert(table), values)


async def test_one_sided_accounts_are_quarantined_with_evidence_until_released(home: Home) -> None:
    hostile = {f"{account:064x}" for account in (40, 41)}
    async with open_database(home.database_url) as engine:
        await store_votes(engine, honest_and_hostile())
        store = SqlAccountStore(engine)
        screening = Screening(SqlVoteSource(engine), store)
        await screening.screen_all()
        found = await store.list_accounts(only_quarantined=True)
        assert {account.principal for account in found} == hostile
        records = await store.audit_records(0)
        assert {record["object"] for record in records} == hostile
        assert {record["actor"] for record in records} == {"review"}
        assert all("for cedar: " in record["detail"] for record in records)
        columns = await SqlVoteSource(engine).columns("acme", "")
        assert columns.is_quarantined.sum() == 60
        least_trusted = np.argsort(columns.accounts.weight)[:2]
        assert {columns.accounts.principals[place] for place in least_trusted} == hostile
        released = sorted(hostile)[0]
        assert await store.release(released, "operator/ada", "a fan")
        await screening.screen_all()
        found = await store.list_accounts(only_quarantined=True)
        assert {account.principal for account in found} == hostile - {released}


async def test_few_votes_are_not_judged(sqlite_home: Home) -> None:
    async with open_database(sqlite_home.database_url) as engine:
        await store_votes(engine, honest_and_hostile()[-LEAST_VOTES + 1 :])
        store = SqlAccountStore(engine)
        await Screening(SqlVoteSource(engine), store).screen_all()
        assert await store.list_accounts(only_quarantined=True) == []


async def test_events_of_a_quarantined_account_wait_for_its_release(home: Home) -> None:
    async with review_service(home) as review:
        events = review.peers.feedback.events
        await review.whole_battle()
        async with asyncio.timeout(10), open_database(home.database_url) as engine:
            while not events:
                await asyncio.sleep(0.02)
            store = SqlAccountStore(engine)
            (account,) = await store.list_accounts(only_quarantined=False)
            await store.quarantine(account.principal, "operator/ada", "a test")
            await review.whole_battle()
            other = await review.whole_battle(caller=BOB)
            while len(events) < 2:
                await asyncio.sleep(0.02)
            assert events[1].accept_time == other.vote_time
            await store.release(account.principal, "operator/ada", "a test")
            while len(events) < 3:
                await asyncio.sleep(0.02)
        assert events[2].principal == account.principal


@pytest.mark.parametrize("act", ["quarantine", "release"])
async def test_unknown_account_cannot_be_changed(sqlite_home: Home, act: str) -> None:
    async with open_database(sqlite_home.database_url) as engine:
        store = SqlAccountStore(engine)
        change = store.quarantine if act == "quarantine" else store.release
        assert not await change("x", "operator/ada", "a test")
        (record,) = await store.audit_records(0)
    assert record["outcome"] == "no such account"
