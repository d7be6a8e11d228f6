"""Extraction and symbolic comparison of final answers, in disposable processes."""

from pathlib import Path

import pytest

from tests.support.errors import refused
from training.verification.checks import CheckError, Choice, Mathematics, Outcome
from training.verification.free_text import last_number, marked_answer, single_line
from training.verification.symbols import compare
from training.verification.workers import WorkerLimits, Workers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("Answer: **42**", "42"),
        ("**Answer:** 7", "7"),
        ("so \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("The answer is \\boxed{5}.", "5"),
        ("\\boxed{3}, no: the answer is 4. I hope it is correct.", "4"),
        ("the answer is 4, boxed: \\boxed{3}", "3"),
        ("steps\n#### 1,234", "1,234"),
        ("The final answer is: $x^2$.", "x^2"),
        ("\\boxed{\\boxed{6}}", "6"),
        ("\\boxed{6", None),
        ("we get 12", None),
    ],
)
def test_marked_answer_is_extracted(text: str, answer: str | None) -> None:
    assert marked_answer(text) == answer


def test_last_number_and_single_line_are_extracted() -> None:
    assert last_number("first 3.5, then -12% of 1,000") == "1,000"
    assert last_number("none") is None
    assert single_line("talps.\n") == "talps"
    assert single_line("two\nlines") is None


RIGHT = [
    ("42", "42"), ("1/2", "0.5"), ("50%", "0.5"), ("1/3", "0.333333"), ("12", "12 km"),
    ("12", "12\\text{ km}"), ("1234", "1,234"), ("7/2", "3 1/2"), ("-0.5", "-\\frac{1}{2}"),
    ("10^12", "1e12"), ("5", "x = 5"), ("-4", "4 - 1 - 7 = -4"), ("5", "$5"), ("x=5", "5"),
    ("36", r"\$36"),
    ("(x+1)^2", "x^2 + 2x + 1"), ("sqrt(2)/2", "1/sqrt(2)"), ("2pi", "2 π"), ("[0,1)", "[0, 1)"),
    ("(-∞, 3]", "(-\\infty,3]"), ("[0,1] ∪ [2,3]", "[2,3]\\cup[0,1]"), ("{1,2}", "\\{2,1\\}"),
    ("x<=5", "x \\le 5"),
]  # fmt: skip
NOT_RIGHT = [
    ("42", "43"), ("1/3", "0.33"), ("[0,1)", "[0,1]"), ("{1,2}", "{1,2,3}"), ("x<=5", "x<5"),
    ("12", "12 apples in 3 baskets"), ("5", "5 or 6"), ("6", "5 or 6"), ("6", "5 ∪ 6"),
    ("11", "5 6"), ("5", "{5,6}"), ("5", "5 \\pm 1"), ("5", "five"), ("5", "5x"), ("5", ""),
    ("5", "(" * 400 + "5" + ")" * 400),
]  # fmt: skip
UNEVALUATED = [
    ("-4", "4-1-7"),
    ("5", "10/2"),
    ("1/2", "\\frac{2}{4}"),
    ("120", "5!"),
    ("9", "3*3"),
    ("2", "sqrt(4)"),
]


@pytest.mark.parametrize(("expected", "answer"), RIGHT)
def test_equal_answers_are_right(expected: str, answer: str) -> None:
    assert compare(expected, answer).outcome is Outcome.RIGHT


@pytest.mark.parametrize(("expected", "answer"), NOT_RIGHT)
def test_other_answers_and_double_answers_have_no_reward(expected: str, answer: str) -> None:
    assert compare(expected, answer).reward == 0


@pytest.mark.parametrize(("expected", "answer"), UNEVALUATED)
def test_unevaluated_number_is_wrong(expected: str, answer: str) -> None:
    assert compare(expected, answer).outcome is Outcome.WRONG


def test_expected_answer_without_mathematics_is_refused() -> None:
    with refused(CheckError, field="expected", reason="MALFORMED"):
        compare("no \\mathematics", "5")


ADVERSARIAL = {
    "a tower of powers": "Answer: 10^{10^{10^{10}}}",
    "the same in plain writing": "Answer: 10**10**10",
    "a power to expand": "Answer: (x+1)^{3000}-(x+2)^{3000}",
    "deep nesting": "Answer: " + "(" * 140 + "x" + ")" * 140,
    "deep braces": "Answer: " + "{" * 140 + "x" + "}" * 140,
    "a megabyte of digits": "9" * 1_000_000,
    "a megabyte of marks": "answer: " * 130_000,
    "boxes that never close": "\\boxed{" * 150_000,
    "a factorial": "Answer: 99999999!",
}


# Each uses a worker's full time, and its replacement needs as long to import.
LONG = ("the same in plain writing", "a power to expand", "deep nesting", "a factorial")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ADVERSARIAL[name], id=name, marks=pytest.mark.long if name in LONG else ())
        for name in ADVERSARIAL
    ],
)
def test_adversarial_answer_gets_a_verdict_and_workers_continue(
    text: str, workers: Workers
) -> None:
    assert workers.judge(Mathematics("x^2"), text).outcome in (
        Outcome.WRONG,
        Outcome.UNPARSABLE,
        Outcome.OUT_OF_TIME,
        Outcome.OUT_OF_MEMORY,
    )
    assert workers.judge(Mathematics("x^2"), "Answer: x*x").outcome is Outcome.RIGHT


def test_slow_answer_is_out_of_time_by_processor_and_wall_time() -> None:
    text = "Answer: " + "{" * 140 + "x" + "}" * 140
    limits = (
        WorkerLimits(processor_seconds=1, wall_seconds=120.0),
        WorkerLimits(processor_seconds=600, wall_seconds=1.0),
    )
    for limit in limits:
        with Workers(1, limit) as workers:
            assert workers.judge(Mathematics("x"), text).outcome is Outcome.OUT_OF_TIME


def test_killed_worker_is_replaced(workers: Workers) -> None:
    assert workers.judge(Choice("A", 4), "A").outcome is Outcome.RIGHT
    with workers._lend() as worker:
        assert worker is not None
        worker._process.kill()
    assert workers.judge(Choice("A", 4), "A").outcome is Outcome.RIGHT


def test_worker_gets_no_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Workers(1) as workers:
        assert workers.judge(Choice("A", 4), "A").outcome is Outcome.RIGHT
        with workers._lend() as worker:
            assert worker is not None
            environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"secret" not in environment


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Answer: B", Outcome.RIGHT),
        ("(B)", Outcome.RIGHT),
        ("Answer: B. a stone", Outcome.RIGHT),
        ("Answer: C", Outcome.WRONG),
        ("Answer: B or C", Outcome.UNPARSABLE),
        ("Answer: B and C", Outcome.UNPARSABLE),
        ("Answer: Z", Outcome.UNPARSABLE),
        ("I think it is\nB", Outcome.UNPARSABLE),
    ],
)
def test_choice_is_a_single_letter(text: str, outcome: Outcome, workers: Workers) -> None:
    assert workers.judge(Choice("B", 4), text).outcome is outcome
