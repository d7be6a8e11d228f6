"""Weights of users in a canary: age at its start, young installations, pending thumbs."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.projections.account_age import FULL, AccountAge, first_answers
from services.feedback.projections.thumbs import Key, Thumbs, ThumbState
from services.feedback.store import tables
from tests.services.feedback.samples import KEY, thumb
from tests.services.feedback.version_world import (
    DAY,
    SECOND,
    SINCE,
    NoPending,
    World,
    answer,
    on,
)

WEEK = AccountAge(7 * DAY)
# First answer of a user, in days before the start of the canary, and the weight in tenths.
AGES = {"old": (30.0, 10), "week": (7.0, 10), "half": (3.5, 5), "day": (1.0, 1), "new": (-0.5, 0)}
OLD = Caller("acme", "old")


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    world = World(tmp_path, engine)
    yield world
    world.close()


def user(name: str) -> Caller:
    return Caller("acme", name)


def with_ages(world: World) -> None:
    """Give each user of AGES a first answer and a thumb in the canary."""
    events = [
        answer(number, caller=user(name), begun_us=SINCE - int(days * DAY) - SECOND)
        for number, (name, (days, _)) in enumerate(AGES.items())
    ]
    rated = [answer(10 + number, caller=user(name)) for number, name in enumerate(AGES)]
    world.turns(*events)
    world.feedback(*(on(event, thumb(f"{number}")) for number, event in enumerate(rated)))


class Pending:
    """Pending thumbs of some users on new answers."""

    def __init__(self, *callers: Caller) -> None:
        self._states = {
            (principal_of(KEY, caller), answer(100 + number).message_id): ThumbState(
                False, "v1", "stable", SINCE + SECOND
            )
            for number, caller in enumerate(callers)
        }

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, ThumbState]:
        return self._states


async def test_a_user_weighs_by_the_age_at_the_start_of_the_canary(world: World) -> None:
    with_ages(world)
    thumbs = Thumbs(world.engine, NoPending(), WEEK)
    found = (await thumbs.count_users_by_version(["v1"], SINCE))["v1"]
    assert found == {(1, 0, 10): 2, (1, 0, 5): 1, (1, 0, 1): 1, (1, 0, 0): 1}
    # Loops of earlier releases count users without weights.
    assert await thumbs.count_users(SINCE) == {("v1", "stable"): {(1, 0): 5}}


async def test_later_answers_do_not_change_a_weight(world: World) -> None:
    """The test of the canary is valid for weights that are fixed before the thumbs only."""
    with_ages(world)
    thumbs = Thumbs(world.engine, NoPending(), WEEK)
    before = await thumbs.count_users_by_version(["v1"], SINCE)
    later = [
        answer(20 + number, version="v2", caller=user(name), begun_us=SINCE + 20 * DAY)
        for number, name in enumerate(AGES)
    ]
    world.turns(*later)
    assert await thumbs.count_users_by_version(["v1"], SINCE) == before


async def test_pending_thumbs_have_the_weights_of_their_users(world: World) -> None:
    with_ages(world)
    callers = [user("old"), user("half"), user("new"), user("unknown")]
    thumbs = Thumbs(world.engine, Pending(*callers), WEEK)
    found = (await thumbs.count_users_by_version(["v1"], SINCE))["v1"]
    assert found == {
        (1, 0, 10): 1,
        (1, 1, 10): 1,
        (1, 1, 5): 1,
        (1, 0, 1): 1,
        (1, 1, 0): 1,
        (0, 1, 0): 1,
    }


@pytest.mark.parametrize(
    ("days", "rule", "expected"),
    [
        pytest.param(13.9, WEEK, FULL, id="young installation"),
        pytest.param(14.0, WEEK, 0, id="old installation"),
        pytest.param(300.0, AccountAge(), FULL, id="rule switched off"),
    ],
)
async def test_new_users_of_a_young_installation_have_their_full_weight(
    world: World, days: float, rule: AccountAge, expected: int
) -> None:
    first = answer(1, caller=OLD, begun_us=SINCE - int(days * DAY) - SECOND)
    rated = answer(2, caller=user("new"))
    world.turns(first, rated)
    world.feedback(on(rated, thumb("a")))
    thumbs = Thumbs(world.engine, NoPending(), rule)
    assert await thumbs.count_users_by_version(["v1"], SINCE) == {"v1": {(1, 0, expected): 1}}


async def test_without_a_start_all_users_have_their_full_weight(world: World) -> None:
    with_ages(world)
    thumbs = Thumbs(world.engine, NoPending(), WEEK)
    assert await thumbs.count_users_by_version(["v1"], 0) == {"v1": {(1, 0, FULL): len(AGES)}}


def test_database_and_service_compute_the_same_weights(engine: Engine) -> None:
    ages_us = [-5 * DAY, -1, 0, 1, DAY // 3, DAY, 7 * DAY - 1, 7 * DAY, 7 * DAY + 1, 400 * DAY]
    rows = [
        {"principal": f"user {n}", "model_version": version, "arm": "stable", "first_us": first_us}
        for n, age_us in enumerate(ages_us)
        for version, first_us in (("v1", SINCE - age_us), ("v2", SINCE + DAY))
    ]
    names = [f"user {number}" for number in range(len(ages_us))]
    exposures = tables.exposures.c
    with engine.begin() as connection:
        connection.execute(insert(tables.exposures), rows)
        column = WEEK.column(exposures.principal, SINCE)
        found = dict(connection.execute(select(exposures.principal, column).distinct()).all())
        first = first_answers(connection, [*names, "unknown"])
    assert found == {name: WEEK.tenths(first.get(name), SINCE) for name in names}
    assert "unknown" not in first
    assert [found[name] for name in names] == [0, 0, 0, 0, 0, 1, 9, 10, 10, 10]
    assert WEEK.tenths(None, SINCE) == 0


@given(st.integers(-(10**15), 10**15), st.integers(0, 10**15), st.integers(1, 365 * DAY))
def test_weights_rise_with_the_age(age_us: int, more_us: int, full_us: int) -> None:
    rule = AccountAge(full_us)
    low, high = (rule.tenths(SINCE - age, SINCE) for age in (age_us, age_us + more_us))
    assert 0 <= low <= high <= FULL
    assert (high == FULL) == (age_us + more_us >= full_us)
