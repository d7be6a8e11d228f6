"""Battles: creation, blindness, ownership, limits, and the models behind their names."""

import pytest
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.review.v1 import arena_pb2

from services.review.arena.battles import (
    DAY_US,
    HOUR_US,
    BattleLimits,
    TooManyBattlesError,
    Usage,
)
from tests.services.review.service import (
    ADA,
    BOB,
    MODELS,
    OTHER_ADA,
    UNKNOWN_ID,
    FakeGenerator,
    Home,
    Peers,
    error_of,
    review_service,
)
from tests.support.errors import refused


async def test_battle_hides_its_models_and_the_gateway_can_resolve_them(home: Home) -> None:
    async with review_service(home) as review:
        battle = await review.create("r1")
        names = [f"battle.{battle.battle_id}.{side}" for side in "ab"]
        assert list(battle.models) == names
        for model in MODELS:
            assert model.encode() not in battle.SerializeToString()
        assert {await review.version(name) for name in names} == set(MODELS)
        read = await review.get(battle.battle_id)
    assert read == battle
    assert (read.outcome, read.model_versions, read.HasField("vote_time")) == (0, [], False)


async def test_same_request_id_returns_the_same_battle(home: Home) -> None:
    async with review_service(home) as review:
        first = await review.create("r1")
        review.peers.generator.candidate = "cedar-3"
        assert await review.create("r1") == first
        others = [await review.create("r2"), await review.create("r1", BOB)]
    assert first.battle_id not in {other.battle_id for other in others}


async def test_battle_of_another_user_is_not_found(home: Home) -> None:
    async with review_service(home) as review:
        battle = await review.create()
        for caller in (BOB, OTHER_ADA):
            missing = await error_of(review.get(UNKNOWN_ID, caller))
            assert await error_of(review.get(battle.battle_id, caller)) == missing
            assert missing == ("NOT_FOUND", "NOT_FOUND", "battle_id")
            unresolved = await error_of(review.version(battle.models[0], caller))
            assert unresolved == ("NOT_FOUND", "NOT_FOUND", "model")


@pytest.mark.parametrize("model", ["", "alder-1", "battle.x.a", f"battle.{UNKNOWN_ID}.c", "\0"])
async def test_unknown_model_name_is_not_found(sqlite_home: Home, model: str) -> None:
    async with review_service(sqlite_home) as review:
        assert await error_of(review.version(model)) == ("NOT_FOUND", "NOT_FOUND", "model")


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a\0b"])
async def test_malformed_request_id_is_refused(sqlite_home: Home, request_id: str) -> None:
    async with review_service(sqlite_home) as review:
        request = arena_pb2.CreateBattleRequest(request_id=request_id)
        call = review.arena.CreateBattle(request, timeout=10, metadata=ADA)
        assert await error_of(call) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "request_id")


@pytest.mark.parametrize(
    ("generator", "changes"),
    [
        (FakeGenerator(candidate=""), {}),
        (FakeGenerator(candidate_state=generator_pb2.VERSION_STATE_LOADING), {}),
        (FakeGenerator(), {"excluded_models": ("birch-2",)}),
        (FakeGenerator(candidate=""), {"extra_models": ("alder-1",)}),
    ],
)
async def test_a_battle_needs_two_models(
    sqlite_home: Home, generator: FakeGenerator, changes: dict[str, object]
) -> None:
    async with review_service(sqlite_home, Peers(generator=generator), **changes) as review:
        error = await error_of(review.create())
    assert error == ("FAILED_PRECONDITION", "TOO_FEW_MODELS", "")


async def test_models_of_the_settings_take_part(sqlite_home: Home) -> None:
    peers = Peers(generator=FakeGenerator(candidate=""))
    async with review_service(sqlite_home, peers, extra_models=("maple",)) as review:
        battle = await review.create()
        assert {await review.version(name) for name in battle.models} == {"alder-1", "maple"}


async def test_battles_of_a_user_are_limited_by_hour_and_votes_by_day(home: Home) -> None:
    async with review_service(home, battles_per_hour=3, votes_per_day=2) as review:
        for _ in range(2):
            await review.whole_battle()
        voted = await error_of(review.create())
        assert voted == ("RESOURCE_EXHAUSTED", "TOO_MANY_BATTLES", "")
        for _ in range(3):
            await review.create(caller=BOB)
        assert await error_of(review.create(caller=BOB)) == voted
        await review.create(caller=OTHER_ADA)


async def test_missing_generator_is_reported_and_creates_nothing(sqlite_home: Home) -> None:
    peers = Peers(generator=FakeGenerator(is_down=True))
    async with review_service(sqlite_home, peers, battles_per_hour=1) as review:
        assert (await error_of(review.create()))[0] == "UNAVAILABLE"
        peers.generator.is_down = False
        await review.create()


def test_delay_is_the_time_until_the_oldest_battle_leaves_the_period() -> None:
    limits = BattleLimits(battles_per_hour=1, votes_per_day=1)
    now = 100 * DAY_US
    limits.check(Usage(0, 0, 0, 0), now)
    for usage, seconds in (
        (Usage(1, now - HOUR_US // 2, 0, 0), 1_800),
        (Usage(0, 0, 1, now - DAY_US // 4), 64_800),
    ):
        with refused(TooManyBattlesError, reason="TOO_MANY_BATTLES") as caught:
            limits.check(usage, now)
        assert caught.value.retry_seconds == seconds
