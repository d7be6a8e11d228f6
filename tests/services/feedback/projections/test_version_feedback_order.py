"""Counts by version follow from the distinct events, for any order of at-least-once delivery."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.feedback.projections.version_feedback import RateSums
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import ADA, name
from tests.services.feedback.version_world import (
    BOB,
    CLEO,
    World,
    copied,
    deleted,
    rebuilt,
    replied,
    sums,
    without_consent,
)

Event = events_pb2.TurnEvent | events_pb2.FeedbackEvent


def _place(turn: events_pb2.TurnEvent) -> str:
    return turn.message_id


class Scenario:
    """Random distinct events of a few users, and the counts that follow from them."""

    def __init__(self, seed: int) -> None:
        chance = self.chance = random.Random(seed)
        self.turns: list[events_pb2.TurnEvent] = []
        self.signals: list[events_pb2.FeedbackEvent] = []
        counted: list[events_pb2.TurnEvent] = []
        numbers = iter(range(1, 1_000))
        for conversation in range(chance.randint(1, 4)):
            caller, version = chance.choice([ADA, BOB, CLEO]), chance.choice(["v1", "v2"])
            said: list[events_pb2.TurnEvent] = []
            for _ in range(chance.randint(1, 8)):
                event = self._turn(next(numbers), caller, version, said)
                event.conversation_id = name(f"conversation {conversation}")
                said.append(event)
                if chance.random() < 0.3:
                    self.signals += [copied(event, caller), copied(event, caller, "again")]
            self.turns += said
            if chance.random() < 0.2:
                self.turns += map(deleted, said)
            else:
                counted += said
        self.expected = {version: self._rates(version, counted) for version in ("v1", "v2")}

    def _turn(
        self, number: int, caller: Caller, version: str, said: list[events_pb2.TurnEvent]
    ) -> events_pb2.TurnEvent:
        event = replied(number, caller=caller, version=version)
        event.guard_category = self.chance.choice(["", "", "email"])
        event.finish_reason = self.chance.choice(
            [chat_pb2.FINISH_REASON_STOP, chat_pb2.FINISH_REASON_CANCELLED]
        )
        before = self.chance.choice(said) if said else None
        action = self.chance.choice(["reply", "ask again", "edit"])
        if before and action == "reply":
            event.parent_message_id = before.message_id
        elif before:
            event.parent_message_id = before.parent_message_id
            if action == "ask again":
                event.user_message_id = before.user_message_id
        return without_consent(event) if self.chance.random() < 0.2 else event

    def _rates(self, version: str, counted: list[events_pb2.TurnEvent]) -> list[RateSums]:
        """Return the expected sums of a version, by comparison of all pairs of turns."""
        consented = [turn for turn in counted if turn.HasField("parent_message_id")]
        marked = {event.message_id for event in self.signals}
        last = {turn.conversation_id: turn.message_id for turn in sorted(counted, key=_place)}
        first = {
            turn.conversation_id: turn.message_id for turn in sorted(counted, key=_place)[::-1]
        }

        def siblings(turn: events_pb2.TurnEvent) -> list[events_pb2.TurnEvent]:
            place = (turn.principal, turn.conversation_id, turn.parent_message_id)
            return [
                other
                for other in consented
                if (other.principal, other.conversation_id, other.parent_message_id) == place
            ]

        events: dict[str, Callable[[events_pb2.TurnEvent], bool]] = {
            "refused": lambda turn: bool(turn.guard_category),
            "asked_again": lambda turn: any(
                other.user_message_id == turn.user_message_id and other.message_id > turn.message_id
                for other in siblings(turn)
            ),
            "edited": lambda turn: any(
                other.user_message_id > turn.user_message_id for other in siblings(turn)
            ),
            "stopped": lambda turn: turn.finish_reason == chat_pb2.FINISH_REASON_CANCELLED,
            "copied": lambda turn: turn.message_id in marked,
            "left": lambda turn: (
                turn.message_id == last[turn.conversation_id] and turn.message_id not in marked
            ),
        }
        of_rate = dict.fromkeys(events, consented) | {
            "refused": counted,
            "left": [turn for turn in consented if turn.message_id != first[turn.conversation_id]],
        }
        found = []
        for rate, is_event in events.items():
            trials: Counter[str] = Counter()
            happened: Counter[str] = Counter()
            for turn in of_rate[rate]:
                if turn.model_version == version:
                    trials[turn.principal] += 1
                    happened[turn.principal] += is_event(turn)
            if trials:
                found.append(sums(rate, *((trials[user], happened[user]) for user in trials)))
        return found

    def deliveries(self) -> Iterator[list[Event]]:
        """Yield batches of one stream: each event at least once, in any order."""
        batches: list[list[Event]] = []
        for events in (self.turns, self.signals):
            repeated: list[Event] = [*events, *self.chance.choices(events, k=len(events) // 2)]
            self.chance.shuffle(repeated)
            while repeated:
                end = self.chance.randint(1, 12)
                batches.append(repeated[:end])
                repeated = repeated[end:]
        self.chance.shuffle(batches)
        yield from batches


async def check_scenario(world: World, seed: int) -> None:
    scenario = Scenario(seed)
    for batch in scenario.deliveries():
        turns = [event for event in batch if isinstance(event, events_pb2.TurnEvent)]
        said = [event for event in batch if isinstance(event, events_pb2.FeedbackEvent)]
        if turns:
            world.turns(*turns)
        else:
            world.feedback(*said)
    before = world.rows()
    found = await world.read("v1", "v2")
    for version, expected in scenario.expected.items():
        assert list(found[version].rates) == expected, f"seed {seed}"
    assert rebuilt(world) == before, f"seed {seed}"


@pytest.mark.parametrize("seed", range(4))
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
