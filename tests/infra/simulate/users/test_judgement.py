"""Win rate: ties count half, the interval is over questions, versions are selected by name."""

import pytest

from infra.simulate.users.client import CallFailedError
from infra.simulate.users.judgement import Comparison, judge, win_rate
from infra.simulate.users.questions import Question
from tests.infra.simulate.users.fakes import FakeChat
from tests.support.errors import refused

QUESTIONS = [Question(f"question {number}?", (), "", True) for number in range(10)]


async def test_versions_answer_every_question_the_given_times() -> None:
    chat = FakeChat(lambda text, model: f"{model} answers {text}")
    steps: list[tuple[int, int]] = []
    won = await judge(
        chat,
        "key",
        QUESTIONS,
        lambda _, answer: float("new" in answer),
        Comparison("old", "new", 3, 4),
        lambda *s: steps.append(s),
    )
    assert (won.rate, won.low, won.high, won.questions, won.comparisons) == (1.0, 1.0, 1.0, 10, 30)
    assert sorted({model for *_, model in chat.asked}) == ["new", "old"]
    assert len(chat.asked) == 60
    assert steps[-1] == (60, 60)
    assert won.samples[0].before == "old answers question 0?"
    assert won.samples[0].after == "new answers question 0?"


async def test_equal_versions_win_half() -> None:
    won = await judge(
        FakeChat(),
        "key",
        QUESTIONS,
        lambda *_: 0.5,
        Comparison("old", "new", 2, 4),
        lambda *_: None,
    )
    assert (won.rate, won.low, won.high) == (0.5, 0.5, 0.5)


async def test_question_with_failed_call_is_omitted() -> None:
    chat = FakeChat(lambda text, model: f"{model} answers {text}")
    chat.failures = 1
    questions = QUESTIONS * 3
    won = await judge(
        chat, "key", questions, lambda *_: 0.5, Comparison("old", "new", 1, 4), lambda *_: None
    )
    assert (won.questions, won.comparisons) == (29, 29)


async def test_failing_system_ends_the_comparison_early() -> None:
    chat = FakeChat()
    chat.failures = 1000
    with refused(CallFailedError, reason="UNAVAILABLE"):
        await judge(
            chat, "key", QUESTIONS, lambda *_: 0.5, Comparison("old", "new", 2, 2), lambda *_: None
        )
    assert 1000 - chat.failures <= 3


def test_interval_width_depends_on_number_of_questions() -> None:
    few, many = win_rate([[1.0], [0.0]] * 5), win_rate([[1.0], [0.0]] * 200)
    assert few.rate == many.rate == 0.5
    assert few.high - few.low > 4 * (many.high - many.low)
    # The standard error of 400 coin tosses is 0.025: the interval extends two of them to each side.
    assert many.low == pytest.approx(0.45, abs=0.01)
    assert many.high == pytest.approx(0.55, abs=0.01)
    # Ten samples of a question are less evidence than ten questions.
    assert win_rate([[1.0] * 10, [0.0] * 10] * 5).high == few.high
