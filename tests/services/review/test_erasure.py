"""Erasure of users: their battles, votes, events and accounts disappear, and no others."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from thumbwheel.review.v1 import arena_pb2

from services.contracts.wire import now_us
from services.review.store.accounts import SqlAccountStore
from services.review.store.database import open_database
from services.review.store.outbox import SqlOutbox
from tests.services.review.service import (
    ADA,
    BOB,
    OTHER_ADA,
    FakeFeedback,
    Home,
    Peers,
    Review,
    error_of,
    review_service,
)

MISSING = ("NOT_FOUND", "NOT_FOUND", "battle_id")


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.05)


async def is_missing(review: Review, battle: arena_pb2.Battle) -> bool:
    try:
        await review.get(battle.battle_id)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND
        return True
    return False


async def test_rows_of_an_erased_user_disappear_and_all_others_remain(home: Home) -> None:
    async with review_service(home, erasure_seconds=0.05, leaderboard_seconds=0) as review:
        voted, opened = await review.whole_battle(), await review.create()
        others = {caller: await review.whole_battle(caller=caller) for caller in (BOB, OTHER_ADA)}
        # Two entries on two pages; the first is older than the battles.
        review.peers.feedback.erase(BOB, 1, age_seconds=60.0)
        review.peers.feedback.erase(ADA, 2)
        await until(lambda: is_missing(review, opened))
        assert await error_of(review.get(voted.battle_id)) == MISSING
        for caller, battle in others.items():
            assert await review.get(battle.battle_id, caller) == battle
        request = arena_pb2.GetLeaderboardRequest()
        board = await review.arena.GetLeaderboard(request, timeout=10, metadata=BOB)
        assert board.votes == 1
        # Later battles are new data.
        fresh = await review.whole_battle()
        await asyncio.sleep(0.2)
        assert await review.get(fresh.battle_id) == fresh
    async with open_database(home.database_url) as engine:
        accounts = await SqlAccountStore(engine).list_accounts(only_quarantined=False)
    assert len(accounts) == 3


async def test_waiting_event_of_an_erased_user_is_never_stored(home: Home) -> None:
    """The event leaves the outbox; feedback drops one that is on its way at that time."""
    feedback = FakeFeedback(failures=[grpc.StatusCode.UNAVAILABLE] * 1_000)
    async with review_service(home, Peers(feedback=feedback), erasure_seconds=0.05) as review:
        voted = await review.whole_battle()
        kept = await review.whole_battle(caller=BOB)
        feedback.erase(ADA, 1)
        await until(lambda: is_missing(review, voted))
        async with open_database(home.database_url) as engine:
            assert (await SqlOutbox(engine).waiting(now_us())).count == 1
        feedback.failures = []
        async with asyncio.timeout(10):
            while not feedback.events:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.15)
    assert [event.accept_time for event in feedback.events] == [kept.vote_time]


async def test_erased_user_is_in_no_byte_of_the_file(sqlite_home: Home) -> None:
    """The outbox has the name of a user while an event waits."""
    feedback = FakeFeedback(failures=[grpc.StatusCode.UNAVAILABLE] * 1_000)
    caller = (("x-tw-tenant", "acme"), ("x-tw-user", "xylophone-player"))
    folder = sqlite_home.directory / "state"

    def is_stored() -> bool:
        return any(b"xylophone-player" in file.read_bytes() for file in folder.iterdir())

    async with review_service(
        sqlite_home, Peers(feedback=feedback), erasure_seconds=0.05
    ) as review:
        await review.whole_battle(caller=caller)
        assert is_stored()
        feedback.erase(caller, 1)
        async with asyncio.timeout(10):
            while is_stored():
                await asyncio.sleep(0.05)
    assert not is_stored()
