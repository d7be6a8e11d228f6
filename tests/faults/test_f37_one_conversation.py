"""F37: ten clients of one conversation, over two replicas, get one order consistent with time."""

import asyncio
import itertools
from typing import Any

from tests.faults.turns import DEADLINE_SECONDS, AcknowledgedTurn, History
from tests.services.session.replicas import two_replicas
from tests.services.session.service import FakeFeedback, Home, feedback_service, read_messages

CLIENTS, TURNS = 10, 4


async def test_f37_turns_of_ten_clients_over_two_replicas_have_one_order(
    postgres_home: Home, record_property: Any
) -> None:
    feedback, history = FakeFeedback(), History()
    async with (
        feedback_service(feedback) as port,
        two_replicas(postgres_home, feedback_target=f"127.0.0.1:{port}") as (one, other),
    ):
        opening = await history.talk([one], "hello")

        async def client(number: int) -> None:
            replicas = [one, other] if number % 2 else [other, one]
            for turn in range(TURNS):
                await history.talk(replicas, f"{number}-{turn}", opening.conversation_id)

        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        stored = await read_messages(one, opening.conversation_id, timeout=DEADLINE_SECONDS)
        async with asyncio.timeout(10):
            while len({event.event_id for event in feedback.turns}) < len(history.turns):
                await asyncio.sleep(0.05)

    record_property("fired", _overlapping(history.turns))
    assert _overlapping(history.turns) > CLIENTS, (
        "the clients did not send at once: nothing was tried"
    )
    ids = [message.id for message in stored]
    assert len(set(ids)) == 2 * (1 + CLIENTS * TURNS) == 2 * len(history.turns)
    assert all(child.parent_id == parent.id for parent, child in itertools.pairwise(stored)), (
        "each under the one before"
    )
    place = {message.id: number for number, message in enumerate(stored)}
    assert sorted(place[turn.question_id] for turn in history.turns) == list(range(0, len(ids), 2))
    for earlier, later in itertools.permutations(history.turns, 2):
        if earlier.begun_at < later.asked_at:
            assert place[earlier.question_id] < place[later.question_id], (
                "a turn stands before one that was over"
            )
    # A delivery whose reply was late is repeated with the same event id, which feedback recognises.
    published = {event.event_id: event.message_id for event in feedback.turns}
    assert sorted(published.values()) == sorted(turn.answer_id for turn in history.turns)


def _overlapping(turns: list[AcknowledgedTurn]) -> int:
    pairs = itertools.combinations(turns, 2)
    return sum(
        one.asked_at < other.begun_at and other.asked_at < one.begun_at for one, other in pairs
    )
