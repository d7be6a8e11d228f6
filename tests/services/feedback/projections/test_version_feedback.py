"""Counts by version: users, refused answers and withdrawn thumbs, for any order of delivery."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.errors import InvalidArgumentError
from services.chassis.identity import Caller
from services.contracts.identifiers import ERASED, principal_of, turn_event_id
from services.feedback import wire as codec
from services.feedback.events import check_versions
from services.feedback.projections import answers, current_feedback
from services.feedback.projections.thumbs import Key, Thumbs, ThumbState
from services.feedback.projections.version_feedback import (
    RateSums,
    VersionFeedback,
    VersionFeedbacks,
)
from services.feedback.sink import no_projection
from services.feedback.spool.spool import Spool
from services.feedback.store import tables
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import (
    ADA,
    FEEDBACK,
    KEY,
    TURNS,
    answer_id,
    retraction,
    thumb,
    turn,
)
from tests.services.feedback.sealing_world import SealingWorld
from tests.services.feedback.sunk_logs import SunkLogs

BOB, CLEO = Caller("acme", "bob"), Caller("acme", "cleo")
SECOND = 1_000_000
SINCE = 1_795_900_000 * SECOND


class NoPending:
    """Pending thumbs of a service whose thumbs are all in the ledger."""

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, ThumbState]:
        return {}


class World(SunkLogs):
    """Both streams over one database."""

    def turns(self, *turns: events_pb2.TurnEvent, on: Spool | None = None) -> Spool:
        """Sink turns through a new log."""
        entries = map(codec.turn_entry, turns)
        return self.sink_entries(TURNS, entries, current_feedback.fold_turns, on)

    def feedback(self, *events: events_pb2.FeedbackEvent) -> Spool:
        """Sink feedback through a new log."""
        entries = map(codec.feedback_entry, events)
        return self.sink_entries(FEEDBACK, entries, current_feedback.fold)

    async def read(self, *versions: str, since_us: int = SINCE) -> dict[str, VersionFeedback]:
        reader = VersionFeedbacks(self.engine, Thumbs(self.engine, NoPending()))
        return {each.model_version: each for each in await reader.of_versions(versions, since_us)}

    def rows(self) -> set[tuple[object, ...]]:
        with self.engine.begin() as connection:
            return {tuple(row) for row in connection.execute(select(tables.answers))}


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    world = World(tmp_path, engine)
    yield world
    world.close()


def answer(
    number: int,
    version: str = "v1",
    caller: Caller = ADA,
    begun_us: int = SINCE,
    finish: chat_pb2.FinishReason.ValueType = chat_pb2.FINISH_REASON_STOP,
    category: str = "",
) -> events_pb2.TurnEvent:
    """Return a finished turn; a number names the answer."""
    event = turn(message=f"{number}")
    event.message_id = answer_id(begun_us, number)
    event.principal, event.model_version, event.arm = principal_of(KEY, caller), version, "stable"
    event.finish_reason, event.guard_category = finish, category
    event.finish_time.FromMicroseconds(begun_us + SECOND)
    return event


def deleted(event: events_pb2.TurnEvent) -> events_pb2.TurnEvent:
    """Return the turn that session sends when the conversation of a turn was deleted."""
    gone = events_pb2.TurnEvent()
    gone.CopyFrom(event)
    for field in ("context", "original_text", "answer"):
        gone.ClearField(field)
    gone.event_id, gone.erased = turn_event_id(event.message_id, ERASED), True
    return gone


def on(event: events_pb2.TurnEvent, vote: events_pb2.FeedbackEvent) -> events_pb2.FeedbackEvent:
    """Return the vote on this answer by the user of the turn, a second later."""
    for field in ("principal", "message_id", "model_version", "arm", "conversation_id"):
        setattr(vote, field, getattr(event, field))
    vote.accept_time.FromMicroseconds(event.finish_time.ToMicroseconds() + SECOND)
    return vote


def sums(name: str, *users: tuple[int, int]) -> RateSums:
    """Return the sums over users, each with trials and events."""
    counted = [(n, x) for n, x in users if n]
    return RateSums(
        name,
        len(counted),
        sum(n for n, _ in counted),
        sum(x for _, x in counted),
        sum(n * n for n, _ in counted),
        sum(x * x for _, x in counted),
        sum(x * n for n, x in counted),
    )


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


async def test_failed_cached_and_pinned_answers_are_no_observations(world: World) -> None:
    cached, pinned, blocked_input = answer(2), answer(3), answer(4, version="")
    cached.cached, pinned.arm = True, "pinned"
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
    # The user with one thumb up and one down counts for neither side.
    assert (found.users_up, found.users_down) == (1, 0)


async def test_a_user_counts_once_over_all_arms_and_not_by_pinned_answers(world: World) -> None:
    votes = []
    for number, (arm, up) in enumerate(
        [("stable", True), ("candidate", False), ("candidate", False), ("pinned", True)]
    ):
        event = answer(number)
        event.arm = arm
        votes.append(on(event, thumb(f"{number}", up=up)))
    world.feedback(*votes)
    found = (await world.read("v1"))["v1"]
    assert (found.users_up, found.users_down) == (0, 1)


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
    reader = VersionFeedbacks(world.engine, Thumbs(world.engine, NoPending()))
    found = await reader.of_versions(["v3", "v2"], 0)
    assert [each.model_version for each in found] == ["v3", "v2"]
    assert found[0] == VersionFeedback("v3", 0, 0, ())


@pytest.mark.parametrize("late", [False, True], ids=["after the answer", "before the answer"])
async def test_answers_of_deleted_conversations_leave_the_counts(world: World, late: bool) -> None:
    event = answer(1, category="email")
    for each in (deleted(event), event) if late else (event, deleted(event)):
        world.turns(each)
    world.turns(answer(2))
    assert (await world.read("v1"))["v1"].rates == (sums("refused", (1, 0)),)
    rebuilt(world)
    assert (await world.read("v1"))["v1"].rates == (sums("refused", (1, 0)),)


def rebuilt(world: World) -> set[tuple[object, ...]]:
    """Rebuild the table from the objects and return its rows."""
    with world.engine.begin() as connection:
        connection.execute(delete(tables.answer_positions))
    assert answers.catch_up(world.ledger, world.store, "turns")
    assert not answers.catch_up(world.ledger, world.store, "turns")
    return world.rows()


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


class Scenario:
    """Random distinct events of a few users, and the counts that follow from them."""

    def __init__(self, seed: int) -> None:
        chance = self.chance = random.Random(seed)
        self.turns: list[events_pb2.TurnEvent] = []
        trials: Counter[tuple[str, str]] = Counter()
        refused: Counter[tuple[str, str]] = Counter()
        for number in range(chance.randint(1, 30)):
            caller, version = chance.choice([ADA, BOB, CLEO]), chance.choice(["v1", "v2"])
            event = answer(number, version, caller, SINCE + number * 1_000)
            event.guard_category = chance.choice(["", "", "email"])
            self.turns.append(event)
            if chance.random() < 0.2:
                self.turns.append(deleted(event))
                continue
            trials[version, event.principal] += 1
            refused[version, event.principal] += bool(event.guard_category)
        self.expected = {
            version: [
                (count, refused[key]) for key, count in sorted(trials.items()) if key[0] == version
            ]
            for version in ("v1", "v2")
        }

    def deliveries(self) -> Iterable[list[events_pb2.TurnEvent]]:
        """Yield batches: each event at least once, in any order."""
        repeated = self.turns + self.chance.choices(self.turns, k=len(self.turns) // 2)
        self.chance.shuffle(repeated)
        while repeated:
            end = self.chance.randint(1, 12)
            yield repeated[:end]
            repeated = repeated[end:]


async def check_scenario(world: World, seed: int) -> None:
    scenario = Scenario(seed)
    for batch in scenario.deliveries():
        world.turns(*batch)
    before = world.rows()
    found = await world.read("v1", "v2")
    for version, users in scenario.expected.items():
        expected = (sums("refused", *users),) if users else ()
        assert found[version].rates == expected, f"seed {seed}"
    assert rebuilt(world) == before, f"seed {seed}"


@pytest.mark.parametrize("seed", range(6))
async def test_counts_follow_from_the_distinct_events(seed: int, fast_directory: Path) -> None:
    world = World(fast_directory, open_sqlite(fast_directory / "ledger.db"))
    await check_scenario(world, seed)
    world.close()
    world.engine.dispose()


async def test_counts_follow_from_the_distinct_events_on_postgres(
    fast_directory: Path, postgres_engine: Engine
) -> None:
    world = World(fast_directory, postgres_engine)
    await check_scenario(world, 100)
    world.close()


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
        check_versions(versions, 10)
    assert caught.value.field == field
    assert caught.value.limit
