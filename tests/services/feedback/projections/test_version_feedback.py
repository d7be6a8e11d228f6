"""Counts by version: users, refused answers, withdrawn thumbs and implicit signals."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, delete, select
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.errors import InvalidArgumentError
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.events import check_each, check_version
from services.feedback.principals.consents import Consents
from services.feedback.projections import answers, signals
from services.feedback.projections.account_age import FULL
from services.feedback.projections.experiments import ArmFigures
from services.feedback.projections.expiry import expire
from services.feedback.projections.thumbs import Thumbs, WeightedCount
from services.feedback.projections.version_feedback import (
    LEFT_AFTER_US,
    RateMetrics,
    RateSums,
    VersionFeedback,
    VersionFeedbacks,
    refresh_rates_periodically,
)
from services.feedback.sink import no_projection
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError
from tests.services.feedback.samples import (
    ADA,
    KEY,
    TURNS,
    answer_id,
    name,
    retraction,
    thumb,
)
from tests.services.feedback.sealing_world import SealingWorld
from tests.services.feedback.version_world import (
    BOB,
    CLEO,
    SECOND,
    SINCE,
    NoPending,
    World,
    answer,
    copied,
    deleted,
    on,
    rebuilt,
    replied,
    sums,
    without_consent,
)


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    world = World(tmp_path, engine)
    yield world
    world.close()


BLOCKED = chat_pb2.FINISH_REASON_OUTPUT_BLOCKED


async def test_refused_answers_are_counted_by_user(world: World) -> None:
    world.turns(
        *(answer(number) for number in range(3)),
        answer(3, finish=BLOCKED, category="violence"),
        answer(4, category="email"),
        answer(5, caller=BOB, finish=BLOCKED),
        answer(6, caller=CLEO),
        answer(7, version="v2", caller=CLEO),
    )
    found = await world.read("v1", "v2")
    assert found["v1"].rates == (sums("refused", (5, 2), (1, 1), (1, 0)),)
    assert found["v2"].rates == (sums("refused", (1, 0)),)


@pytest.mark.parametrize("arm", ["pinned", "battle"])
async def test_failed_cached_and_pinned_answers_are_no_observations(world: World, arm: str) -> None:
    cached, pinned, blocked_input = answer(2), answer(3), answer(4, version="")
    cached.cached, pinned.arm = True, arm
    failed = answer(1, finish=chat_pb2.FINISH_REASON_FAILED)
    world.turns(failed, cached, pinned, blocked_input, answer(5, category="email"))
    assert (await world.read("v1"))["v1"].rates == (sums("refused", (1, 1)),)


async def test_withdrawn_thumbs_are_counted_by_user(world: World) -> None:
    first, second, third = (answer(number) for number in range(3))
    of_bob = answer(3, caller=BOB)
    world.feedback(
        on(first, thumb("a")),
        on(first, retraction("b")),
        on(second, thumb("c", up=False)),
        on(third, thumb("d")),
        on(third, retraction("e")),
        on(third, thumb("f")),
        on(of_bob, thumb("g")),
    )
    found = (await world.read("v1"))["v1"]
    assert found.rates == (sums("retracted", (3, 1), (1, 0)),)
    assert found.users == {(1, 1, FULL): 1, (1, 0, FULL): 1}


@pytest.mark.parametrize("outside", ["pinned", "battle"])
async def test_a_user_counts_once_over_all_arms_and_not_by_pinned_answers(
    world: World, outside: str
) -> None:
    votes = []
    for number, (arm, up) in enumerate(
        [("stable", True), ("candidate", False), ("candidate", False), (outside, True)]
    ):
        event = answer(number)
        event.arm = arm
        votes.append(on(event, thumb(f"{number}", up=up)))
    world.feedback(*votes)
    found = (await world.read("v1"))["v1"]
    assert found.users == {(1, 2, FULL): 1}


async def test_only_answers_begun_since_a_time_count(world: World) -> None:
    before = answer(1, begun_us=SINCE - 1_000, category="email")
    world.turns(before, answer(2))
    world.feedback(on(before, thumb("a")), on(before, retraction("b")))
    world.feedback(on(answer(2), thumb("c", up=False)))
    found = (await world.read("v1"))["v1"]
    assert found.rates == (sums("refused", (1, 0)), sums("retracted", (1, 0)))
    whole = (await world.read("v1", since_us=0))["v1"]
    assert whole.rates == (sums("refused", (2, 1)), sums("retracted", (2, 1)))


async def test_a_version_without_feedback_has_zeros_and_the_order_is_the_requests(
    world: World,
) -> None:
    world.turns(answer(1, version="v2"))
    reader = VersionFeedbacks(world.engine, Thumbs(world.engine, NoPending()), True)
    found = await reader.of_versions(["v3", "v2"], 0)
    assert [each.model_version for each in found] == ["v3", "v2"]
    assert found[0] == VersionFeedback("v3", WeightedCount(), ())


@pytest.mark.parametrize("late", [False, True], ids=["after the answer", "before the answer"])
async def test_answers_of_deleted_conversations_leave_the_counts(world: World, late: bool) -> None:
    event = answer(1, category="email")
    for each in (deleted(event), event) if late else (event, deleted(event)):
        world.turns(each)
    world.turns(answer(2))
    assert (await world.read("v1"))["v1"].rates == (sums("refused", (1, 0)),)
    rebuilt(world)
    assert (await world.read("v1"))["v1"].rates == (sums("refused", (1, 0)),)


def test_commits_of_an_older_release_trigger_a_rebuild(world: World) -> None:
    log = world.sink_entries(TURNS, [codec.turn_entry(answer(1))], no_projection)
    world.turns(answer(2), on=log)
    assert len(world.rows()) == 1
    assert answers.catch_up(world.ledger, world.store, "turns")
    assert len(world.rows()) == 2


def test_answers_of_an_erased_user_are_deleted_and_stay_away(
    tmp_path: Path, engine: Engine
) -> None:
    world = SealingWorld(tmp_path, engine)
    world.finish(answer(1), answer(2, caller=BOB))
    world.sink()
    world.finish(answer(3))
    world.erasures.erase(principal_of(KEY, ADA), "acme")
    world.sink()
    left = [row["message_id"] for row in world.all_of(tables.answers)]
    assert left == [answer(2).message_id]
    with engine.begin() as connection:
        connection.execute(delete(tables.answer_positions))
    assert answers.catch_up(world.ledger, world.store, "turns")
    assert [row["message_id"] for row in world.all_of(tables.answers)] == left
    world.close()


async def test_asked_again_and_edited_count_for_the_earlier_answer(world: World) -> None:
    first = replied(1)
    again, reply = replied(2, question=1), replied(3, parent=first.message_id)
    edited = replied(4, parent=first.message_id, version="v2")
    world.turns(first, again, reply, edited)
    rates = await world.rates()
    assert (rates["asked_again"], rates["edited"]) == ((3, 1), (3, 1))
    assert (await world.rates("v2"))["edited"] == (1, 0)
    with world.engine.begin() as connection:
        marked = {
            row.message_id: (bool(row.asked_again), bool(row.edited))
            for row in connection.execute(select(tables.answers))
        }
    assert marked == {
        first.message_id: (True, False),
        again.message_id: (False, False),
        reply.message_id: (False, True),
        edited.message_id: (False, False),
    }


async def test_an_edited_first_message_counts_within_its_conversation_only(world: World) -> None:
    other = replied(3)
    other.conversation_id = name("another conversation")
    world.turns(replied(1), replied(2), other, replied(4, caller=BOB))
    assert (await world.rates())["edited"] == (4, 1)


async def test_stopped_answers_are_counted_by_user(world: World) -> None:
    stopped = replied(1)
    stopped.finish_reason = chat_pb2.FINISH_REASON_CANCELLED
    world.turns(stopped, replied(2, parent=stopped.message_id), replied(3, caller=BOB))
    found = (await world.read("v1"))["v1"]
    assert sums("stopped", (2, 1), (1, 0)) in found.rates


async def test_a_copied_answer_counts_once(world: World) -> None:
    first, of_another = replied(1), replied(2, caller=BOB)
    world.feedback(copied(first), copied(first, request="again"))
    world.turns(first, of_another)
    assert (await world.rates())["copied"] == (2, 1)
    # A signal is no thumb.
    found = (await world.read("v1"))["v1"]
    assert found.users == {}
    assert "retracted" not in {sums.name for sums in found.rates}


def at(event: events_pb2.TurnEvent, seconds: float) -> events_pb2.TurnEvent:
    """Return the turn, begun and finished that much later."""
    begun_us = SINCE + round(seconds * SECOND)
    event.message_id = answer_id(begun_us, 1)
    event.finish_time.FromMicroseconds(begun_us + SECOND)
    return event


FINISHED = SINCE + 2_000 + SECOND  # of the answer with the number 2


async def test_a_conversation_is_left_when_its_time_has_passed(world: World) -> None:
    first = replied(1)
    world.turns(first, replied(2, parent=first.message_id), replied(3, caller=BOB))
    assert "left" not in await world.rates(now_us=FINISHED + LEFT_AFTER_US - 1)
    # The only answers of their conversations are no trials, like those of clients without one.
    assert (await world.rates(now_us=FINISHED + LEFT_AFTER_US))["left"] == (1, 1)


@pytest.mark.parametrize(("minutes", "events"), [(29, 0), (31, 1)])
@pytest.mark.parametrize("reaction", ["message", "thumb", "copy"])
async def test_a_reaction_counts_within_its_time(
    world: World, reaction: str, minutes: int, events: int
) -> None:
    first = replied(1)
    last = replied(2, parent=first.message_id)
    world.turns(first, last)
    match reaction:
        case "message":
            world.turns(at(replied(3, parent=last.message_id, version="v2"), minutes * 60))
        case "thumb" | "copy":
            event = on(last, thumb("a")) if reaction == "thumb" else copied(last)
            event.accept_time.FromMicroseconds(SINCE + minutes * 60 * SECOND)
            world.feedback(event)
    assert (await world.rates())["left"] == (1, events)


async def test_answers_without_consent_have_no_signals(world: World) -> None:
    first, stopped = without_consent(replied(1)), without_consent(replied(3, question=1))
    stopped.finish_reason = chat_pb2.FINISH_REASON_CANCELLED
    world.turns(first, replied(2, question=1), stopped)
    world.feedback(copied(first))
    rates = await world.rates()
    assert rates["refused"] == (3, 0)
    expected = dict.fromkeys(("asked_again", "edited", "stopped", "copied"), (1, 0))
    assert {name: rates[name] for name in expected} == expected


@pytest.mark.parametrize("training_default", [True, False])
async def test_withdrawn_consent_ends_the_counting_of_signals(
    world: World, training_default: bool
) -> None:
    world.turns(replied(1), replied(2, caller=BOB), replied(3, caller=CLEO))
    consents = Consents(world.engine, training_default)
    consents.set(principal_of(KEY, ADA), True)
    consents.set(principal_of(KEY, BOB), False)
    rates = await world.rates(training_default=training_default)
    assert rates["refused"] == (3, 0)
    assert rates["stopped"] == (1 + training_default, 0)


async def test_signals_on_answers_of_deleted_conversations_are_deleted(world: World) -> None:
    first, again = replied(1), replied(2, question=1)
    world.turns(first, again)
    world.feedback(copied(first))
    world.turns(deleted(again))
    assert (await world.rates())["asked_again"] == (1, 0)
    world.turns(deleted(first))
    world.feedback(copied(first, request="late"))
    assert world.rows() == set()
    assert rebuilt(world) == set()


def test_signals_of_an_erased_user_are_deleted_and_stay_away(
    tmp_path: Path, engine: Engine
) -> None:
    world = SealingWorld(tmp_path, engine)
    first = replied(1)
    world.say(copied(first), copied(replied(2, caller=BOB), BOB))
    world.sink()
    world.say(copied(replied(3)))
    world.erasures.erase(principal_of(KEY, ADA), "acme")
    world.sink()
    left = [row["principal"] for row in world.all_of(tables.signals)]
    assert left == [principal_of(KEY, BOB)]
    with engine.begin() as connection:
        connection.execute(delete(tables.signal_positions))
    assert signals.catch_up(world.ledger, world.store, "feedback")
    assert [row["principal"] for row in world.all_of(tables.signals)] == left
    world.close()


def test_answers_and_signals_expire(world: World) -> None:
    early, late = replied(1), replied(2)
    world.turns(early, late)
    world.feedback(copied(early), copied(late))
    finished_us, accepted_us = (SINCE + 2_000 + seconds * SECOND for seconds in (1, 2))
    expire(world.engine, finished_us)
    with world.engine.begin() as connection:
        assert connection.execute(select(tables.answers.c.message_id)).scalars().all() == [
            late.message_id
        ]
    expire(world.engine, accepted_us)
    with world.engine.begin() as connection:
        assert connection.execute(select(tables.signals.c.message_id)).scalars().all() == [
            late.message_id
        ]


class Figures:
    """Experiments with one version."""

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        return [ArmFigures("v1", arm, 1, 1, 0, 0) for arm in ("stable", "candidate")]


class Rates:
    """Rates that fail after the first reading."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], int]] = []
        self.failed = asyncio.Event()

    async def rates(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, Sequence[RateSums]]:
        self.asked.append((versions, since_us))
        if len(self.asked) > 2:
            self.failed.set()
        if len(self.asked) > 1:
            raise LedgerUnavailableError("away")
        return {"v1": [sums("stopped", (3, 1), (1, 0))]}


async def test_rates_of_a_day_are_exported_and_stay_during_an_outage() -> None:
    exported, source = RateMetrics(), Rates()
    day_us = 86_400 * SECOND
    refreshing = asyncio.create_task(
        refresh_rates_periodically(Figures(), source, exported, 0.001, lambda: day_us + 5)
    )
    await asyncio.wait_for(source.failed.wait(), 30)
    refreshing.cancel()
    assert source.asked[0] == (["v1"], 5)
    registry = CollectorRegistry()
    registry.register(exported)
    labels = {"version": "v1", "rate": "stopped"}
    assert registry.get_sample_value("thumbwheel_version_rate_trials", labels) == 4
    assert registry.get_sample_value("thumbwheel_version_rate_ratio", labels) == 0.25


@pytest.mark.parametrize(
    ("versions", "field"),
    [
        ([], "model_versions"),
        (["v"] * 11, "model_versions"),
        (["v", ""], "model_versions[1]"),
        (["v" * 129], "model_versions[0]"),
        (["v\0"], "model_versions[0]"),
    ],
)
def test_versions_outside_their_limits_are_refused(versions: list[str], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_each(versions, "model_versions", 10, check_version)
    assert caught.value.field == field
    assert caught.value.limit
