"""Leaderboard: counts, ratings, topics, tenants, quarantined accounts, and caching."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import arena_pb2

from services.chassis.errors import InvalidArgumentError
from services.review.arena import leaderboard
from services.review.arena.labels import Label, Labels
from services.review.arena.leaderboard import Leaderboards, rate
from services.review.arena.vote_columns import AccountColumns, VoteColumns
from services.review.store.accounts import SqlAccountStore
from services.review.store.database import open_database
from tests.services.review.service import (
    ADA,
    BOB,
    MODELS,
    OTHER_ADA,
    Home,
    Review,
    error_of,
    review_service,
)
from tests.support.errors import refused

NOW_US = 1_790_000_000_000_000


async def board_of(
    review: Review, topic: str = "", caller: object = ADA, *, style: bool = False
) -> arena_pb2.GetLeaderboardResponse:
    request = arena_pb2.GetLeaderboardRequest(topic=topic, style_control=style)
    found: arena_pb2.GetLeaderboardResponse = await review.arena.GetLeaderboard(
        request, timeout=10, metadata=caller
    )
    return found


async def vote_for(review: Review, model: str, caller: object = ADA, **fields: object) -> None:
    """Vote in a new battle for a model."""
    battle = await review.create(caller=caller)
    first = await review.version(battle.models[0], caller)
    outcome = arena_pb2.OUTCOME_FIRST if first == model else arena_pb2.OUTCOME_SECOND
    ids = await review.answers(battle, owner=caller, **fields)
    await review.vote(battle.battle_id, ids, outcome, caller)


async def test_leaderboard_counts_the_votes_of_the_tenant(home: Home) -> None:
    labels = {MODELS[0]: {"developer": "Acme", "licence": "MIT"}}
    async with review_service(home, models=labels, leaderboard_seconds=0) as review:
        empty = await board_of(review)
        assert (list(empty.entries), empty.votes, empty.HasField("latest_vote_time")) == (
            [],
            0,
            False,
        )
        for _ in range(3):
            await vote_for(review, MODELS[0])
        await vote_for(review, MODELS[1], BOB, task=chat_pb2.TASK_CHAT)
        await review.whole_battle(texts=("same", "same"))
        await review.whole_battle(age_seconds=0.0)
        board = await board_of(review)
        chat, code = await board_of(review, "chat"), await board_of(review, "code")
        foreign = await board_of(review, caller=OTHER_ADA)
        styled = await board_of(review, style=True)
    assert (board.votes, board.set_aside, board.quarantined) == (4, 1, 0)
    assert [entry.model for entry in board.entries] == list(MODELS)
    first, second = board.entries
    assert (first.developer, first.licence, second.licence) == ("Acme", "MIT", "")
    assert first.rating_low < first.rating < first.rating_high
    assert first.rating + second.rating == pytest.approx(2_000)
    assert (first.votes, first.rank) == (4, 1)
    (pair,) = board.pairs
    assert (pair.first, pair.second) == MODELS
    assert (pair.first_wins, pair.second_wins, pair.ties) == (3, 1, 0)
    assert (chat.votes, code.votes, code.set_aside) == (1, 3, 1)
    assert not foreign.entries
    assert styled.votes == 4


async def test_topics_are_those_with_counted_votes(home: Home) -> None:
    async with review_service(home, leaderboard_seconds=0) as review:
        for task in (chat_pb2.TASK_CODE, chat_pb2.TASK_CODE, chat_pb2.TASK_CHAT):
            await vote_for(review, MODELS[0], task=task)
        await vote_for(review, MODELS[1], task=chat_pb2.TASK_UNSPECIFIED)
        await review.whole_battle(texts=("same", "same"), task=chat_pb2.TASK_CREATIVE)
        await vote_for(review, MODELS[0], OTHER_ADA, task=chat_pb2.TASK_QUESTION_ANSWERING)
        whole, code = await board_of(review), await board_of(review, "code")
        await vote_for(review, MODELS[1], BOB, task=chat_pb2.TASK_CREATIVE)
        async with open_database(home.database_url) as engine:
            store = SqlAccountStore(engine)
            accounts = await store.list_accounts(only_quarantined=False)
            held = max(accounts, key=lambda one: one.votes)
            await store.quarantine(held.principal, "operator/test", "a test")
        later = await board_of(review)
    assert (whole.votes, code.votes) == (4, 2)
    assert [(one.topic, one.votes) for one in whole.topics] == [("chat", 1), ("code", 2)]
    assert list(code.topics) == list(whole.topics)
    assert [(one.topic, one.votes) for one in later.topics] == [("creative", 1)]


async def test_unknown_topic_is_refused(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        error = await error_of(board_of(review, "poetry"))
    assert error == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "topic")


async def test_votes_of_a_quarantined_account_do_not_count_until_its_release(home: Home) -> None:
    async with review_service(home, leaderboard_seconds=0) as review:
        await vote_for(review, MODELS[0])
        await vote_for(review, MODELS[1], BOB)
        async with open_database(home.database_url) as engine:
            store = SqlAccountStore(engine)
            accounts = await store.list_accounts(only_quarantined=False)
            principal = accounts[0].principal
            assert await store.quarantine(principal, "operator/test", "a test")
            held = await board_of(review)
            assert (held.votes, held.quarantined) == (1, 1)
            await store.release(principal, "operator/test", "a test")
            assert (await board_of(review)).votes == 2


@pytest.mark.parametrize(("age_days", "expected"), [(1.0, 0.5), (10.0, 5.0), (100.0, 7.0)])
def test_age_counts_by_that_of_the_oldest_account(age_days: float, expected: float) -> None:
    accounts = replace(columns([1, 0]).accounts, create_us=np.array([NOW_US, NOW_US]))
    accounts.create_us[0] -= int(age_days * 86_400_000_000)
    assert accounts.trust_config(NOW_US).age_days == pytest.approx(expected)


def columns(score: list[float], second: list[int] | None = None, accounts: int = 40) -> VoteColumns:
    """Return votes between the model `a` and others, each account with some votes."""
    count = len(score)
    return VoteColumns(
        models=("a", "b", "c"),
        first=np.zeros(count, np.int64),
        second=np.array(second or [1] * count, np.int64),
        score=np.array(score),
        account=np.arange(count, dtype=np.int64) % accounts,
        vote_us=NOW_US - np.arange(count, dtype=np.int64)[::-1],
        style=np.tile(np.array([[100.0, 0, 0, 0], [50.0, 0, 0, 0]]), (count, 1, 1)),
        accounts=AccountColumns(
            principals=tuple(map(str, range(accounts))),
            create_us=np.full(accounts, NOW_US - 30 * 86_400_000_000, np.int64),
            weight=np.ones(accounts),
            quarantined=np.zeros(accounts, bool),
            released=np.zeros(accounts, bool),
        ),
        set_aside=0,
    )


def test_model_without_defeats_has_no_rating_and_comes_last() -> None:
    votes = columns([1, 0] * 50 + [1] * 20, [1] * 100 + [2] * 20)
    board = rate(votes, {"a": Label("x", "y")}, NOW_US, style=False)
    assert [entry.model for entry in board.entries] == ["a", "b", "c"]
    last = board.entries[-1]
    assert (last.rank, last.rating, last.rating_low, last.rating_high) == (0, 0, 0, 0)
    assert board.pairs["a", "c"].first_wins == 20


def test_fragility_and_lacking_votes_are_reported() -> None:
    board = rate(columns([1] * 52 + [0] * 48), {}, NOW_US, style=False)
    assert board.fragility
    assert (board.fragility.removed, board.fragility.new_leader) == (5, "b")
    assert board.entries[0].votes_to_separate > 100
    assert board.entries[1].votes_to_separate == 0
    clear = rate(columns([1] * 95 + [0] * 5), {}, NOW_US, style=False)
    assert clear.entries[0].votes_to_separate == 0
    assert clear.fragility is None


def test_ties_count_half_and_are_shown_as_ties() -> None:
    board = rate(columns([0.5] * 10), {}, NOW_US, style=False)
    assert board.pairs["a", "b"].ties == 10
    assert board.entries[0].rating == pytest.approx(board.entries[1].rating)


@dataclass
class FakeModels:
    """External models of the generator."""

    models: dict[str, Label] = field(default_factory=dict)

    async def external_models(self) -> dict[str, Label]:
        return self.models


class CountingSource:
    """Source of votes that counts its reads."""

    def __init__(self) -> None:
        self.reads, self.version = 0, 1

    async def fingerprint(self, tenant: str) -> tuple[object, ...]:
        return tenant, self.version

    async def topics(self, tenant: str) -> Mapping[str, int]:
        return {"code": 4}

    async def columns(self, tenant: str, topic: str) -> VoteColumns:
        self.reads += 1
        return columns([1, 0, 1, 0])


async def test_leaderboard_is_computed_again_only_after_a_change() -> None:
    source = CountingSource()
    boards = Leaderboards(source, Labels({}, FakeModels()), 0.0, lambda: NOW_US)
    first = await boards.board("acme", "", style=False)
    assert await boards.board("acme", "", style=False) is first
    source.version = 2
    assert await boards.board("acme", "", style=False) is not first
    assert source.reads == 2


async def test_leaderboard_is_kept_for_its_shortest_time() -> None:
    source = CountingSource()
    boards = Leaderboards(source, Labels({}, FakeModels()), 3_600.0, lambda: NOW_US)
    first = await boards.board("acme", "", style=False)
    source.version = 2
    assert await boards.board("acme", "", style=False) is first
    with refused(InvalidArgumentError, field="topic"):
        await boards.board("acme", "x", style=False)


class SlowSource(CountingSource):
    """Source that returns its votes when `is_open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = asyncio.Event()

    async def columns(self, tenant: str, topic: str) -> VoteColumns:
        found = await super().columns(tenant, topic)
        await self.is_open.wait()
        return found


async def test_computation_continues_after_the_deadline_of_its_call() -> None:
    source = SlowSource()
    boards = Leaderboards(source, Labels({}, FakeModels()), 3_600.0, lambda: NOW_US)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await boards.board("acme", "", style=False)
    source.is_open.set()
    assert (await boards.board("acme", "", style=False)).votes == 4
    assert source.reads == 1


async def test_previous_leaderboard_is_returned_during_a_long_computation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leaderboard, "WAIT_SECONDS", 0.05)
    source = SlowSource()
    source.is_open.set()
    boards = Leaderboards(source, Labels({}, FakeModels()), 0.0, lambda: NOW_US)
    first = await boards.board("acme", "", style=False)
    source.is_open.clear()
    source.version = 2
    assert await boards.board("acme", "", style=False) is first
    source.is_open.set()
    assert await boards.board("acme", "", style=False) is not first
