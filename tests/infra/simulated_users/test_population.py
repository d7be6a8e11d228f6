"""A crowd keeps its bounds, counts what was acknowledged, and stops when the system is gone."""

import asyncio

import pytest

from infra.simulated_users.bounds import Bounds, Counts, PopulationError
from infra.simulated_users.client import MessageTarget
from infra.simulated_users.population import Habits, Population
from infra.simulated_users.questions import Question
from infra.simulated_users.rating import Rater, VotingBehaviour
from tests.infra.simulated_users.fakes import FakeChat
from tests.support.errors import refused
from training.errors import ConfigError

QUESTIONS = [Question(f"question {number}?", (), "better", False) for number in range(5)]
EAGER = VotingBehaviour(
    noise=0.0, votes_if_pleased=1.0, votes_if_displeased=1.0, corrects_if_displeased=0.5
)


def crowd(
    chat: FakeChat, habits: Habits | None = None, temper: VotingBehaviour = EAGER
) -> Population:
    rater = Rater(lambda question, _: float(question.text < "question 2"), temper)
    return Population(
        chat, [f"key {n}" for n in range(6)], QUESTIONS, rater, habits or Habits(), seed=3
    )


def silent(_: Counts) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("concurrency", [1, 7])
async def test_no_more_thumbs_than_asked_for_however_many_people_at_once(concurrency: int) -> None:
    chat = FakeChat()
    counts = await crowd(chat).run(Bounds(100, 60.0, concurrency), silent)
    assert counts.thumbs == len(chat.thumbs) == 100
    assert counts.up == sum(up for _, _, up in chat.thumbs)
    assert counts.corrections == len(chat.corrections) > 0
    assert (
        counts.answers
        == counts.turns
        == len(chat.asked) + len(chat.again)
        == counts.by_version["v0"]
    )
    assert counts.edited > 0
    assert counts.regenerated == len(chat.again) > 0


async def test_a_crowd_that_never_votes_ends_with_its_time() -> None:
    quiet = VotingBehaviour(votes_if_pleased=0.0, votes_if_displeased=0.0)
    counts = await crowd(FakeChat(), temper=quiet).run(Bounds(10, 0.05, 2), silent)
    assert counts.thumbs == 0
    assert counts.answers > 0


async def test_a_crowd_that_is_told_to_stop_does_not_finish_its_pause() -> None:
    stop = asyncio.Event()
    people = asyncio.create_task(
        crowd(FakeChat()).run(Bounds(10_000, 3600.0, 3, lambda: 3600.0), lambda _: stop.set(), stop)
    )
    counts = await asyncio.wait_for(people, 10)
    assert 0 < counts.thumbs < 100


async def test_an_edit_takes_the_place_of_the_first_question_and_another_question_goes_below_the_answer() -> (
    None
):
    chat = FakeChat()
    await crowd(chat, Habits(asks_again=0.0, edits=1.0, goes_on=1.0)).run(
        Bounds(4, 60.0, 1), silent
    )
    places = [place for _, _, place, _ in chat.asked]
    assert places[0] == MessageTarget()
    assert places[1] == MessageTarget("conversation 1", "conversation 1")
    assert places[2] == MessageTarget("conversation 1", "answer 2")


async def test_a_refused_question_is_not_rated() -> None:
    chat = FakeChat()
    chat.refuses = True
    counts = await crowd(chat).run(Bounds(10, 0.05, 2), silent)
    assert counts.refused == counts.answers > 0
    assert counts.turns == counts.thumbs == 0
    assert not chat.thumbs
    assert not chat.again


async def test_a_failing_call_costs_a_visit_and_no_thumb() -> None:
    chat = FakeChat()
    chat.failures = 3
    counts = await crowd(chat, Habits(0.0, 0.0, 0.0)).run(Bounds(20, 60.0, 4), silent)
    assert counts.errors == 3
    assert counts.thumbs == len(chat.thumbs) == 20


async def test_people_leave_a_system_that_is_gone_and_say_why() -> None:
    chat = FakeChat()
    chat.failures = 10_000
    with pytest.raises(ExceptionGroup) as raised:
        await crowd(chat).run(Bounds(20, 60.0, 10), silent)
    found = [error for error in raised.value.exceptions if isinstance(error, PopulationError)]
    assert {(error.reason, error.limit) for error in found} == {("UNAVAILABLE", "20")}


@pytest.mark.parametrize("name", ["thumbs", "seconds", "concurrency"])
def test_a_bound_of_nothing_is_refused(name: str) -> None:
    with refused(ConfigError, field=name, reason="OUT_OF_RANGE", limit="above 0"):
        Bounds(**{"thumbs": 1, "seconds": 1.0, "concurrency": 1, name: 0})
