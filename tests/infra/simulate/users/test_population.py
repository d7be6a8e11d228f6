"""A population respects its limits, counts acknowledged feedback and stops without a system."""

import asyncio

import pytest

from infra.simulate.users.bounds import Bounds, Counts, PopulationError
from infra.simulate.users.client import MessageTarget
from infra.simulate.users.population import Habits, Population
from infra.simulate.users.preference import Rater, VotingBehaviour
from infra.simulate.users.questions import Question
from tests.infra.simulate.users.fakes import FakeChat
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
    """Ignore the reported progress."""


@pytest.mark.parametrize("concurrency", [1, 7])
async def test_concurrent_users_respect_the_limit_of_thumbs(concurrency: int) -> None:
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


async def test_population_without_votes_ends_at_its_time_limit() -> None:
    quiet = VotingBehaviour(votes_if_pleased=0.0, votes_if_displeased=0.0)
    counts = await crowd(FakeChat(), temper=quiet).run(Bounds(10, 0.05, 2), silent)
    assert counts.thumbs == 0
    assert counts.answers > 0


async def test_stopped_population_interrupts_its_pause() -> None:
    stop = asyncio.Event()
    people = asyncio.create_task(
        crowd(FakeChat()).run(Bounds(10_000, 3600.0, 3, lambda: 3600.0), lambda _: stop.set(), stop)
    )
    counts = await asyncio.wait_for(people, 10)
    assert 0 < counts.thumbs < 100


async def test_edit_replaces_first_question_and_follow_up_extends_answer() -> None:
    chat = FakeChat()
    await crowd(chat, Habits(asks_again=0.0, edits=1.0, goes_on=1.0)).run(
        Bounds(4, 60.0, 1), silent
    )
    places = [place for _, _, place, _ in chat.asked]
    assert places[0] == MessageTarget()
    assert places[1] == MessageTarget("conversation 1", "conversation 1")
    assert places[2] == MessageTarget("conversation 1", "answer 2")


async def test_blocked_question_is_not_rated() -> None:
    chat = FakeChat()
    chat.refuses = True
    counts = await crowd(chat).run(Bounds(10, 0.05, 2), silent)
    assert counts.refused == counts.answers > 0
    assert counts.turns == counts.thumbs == 0
    assert not chat.thumbs
    assert not chat.again


async def test_failed_call_ends_a_visit_without_losing_thumbs() -> None:
    chat = FakeChat()
    chat.failures = 3
    counts = await crowd(chat, Habits(0.0, 0.0, 0.0)).run(Bounds(20, 60.0, 4), silent)
    assert counts.errors == 3
    assert counts.thumbs == len(chat.thumbs) == 20


async def test_population_stops_without_a_system_and_reports_the_error() -> None:
    chat = FakeChat()
    chat.failures = 10_000
    with pytest.raises(ExceptionGroup) as raised:
        await crowd(chat).run(Bounds(20, 60.0, 10), silent)
    found = [error for error in raised.value.exceptions if isinstance(error, PopulationError)]
    assert {(error.reason, error.limit) for error in found} == {("UNAVAILABLE", "20")}


@pytest.mark.parametrize("name", ["thumbs", "seconds", "concurrency"])
def test_limit_of_zero_is_rejected(name: str) -> None:
    with refused(ConfigError, field=name, reason="OUT_OF_RANGE", limit="above 0"):
        Bounds(**{"thumbs": 1, "seconds": 1.0, "concurrency": 1, name: 0})
