"""Alarms on states that the reward alone would show as a success."""

import re

from training.rl.alarms import Limits, alarm, record_figures

HEALTHY = {"score": 0.1, "kl": 1.0, "eos_rate": 1.0, "response_tokens": 20.0}


def after(*figures: dict[str, float]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for changes in figures:
        record_figures(numbers, HEALTHY | changes)
    return numbers


def test_healthy_run_raises_no_alarm() -> None:
    assert alarm(after({}, {"score": 0.9}), Limits()) == ""


def figures(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_drift_and_collapse_are_reported_with_their_limits() -> None:
    assert figures(alarm(after({}, {"kl": 25.0}), Limits())) == ["25.00", "20"]
    assert figures(alarm(after({}, {"response_tokens": 4.0}), Limits())) == ["4.0", "5.0"]


def test_kl_ceiling_is_ignored_without_a_reference() -> None:
    numbers = after({})
    del numbers["last_kl"]
    assert alarm(numbers, Limits(kl_ceiling_nats=None)) == ""


def course(scores: list[float], gold: list[float]) -> str:
    steps = [
        {"score": score, "gold_score": judged} for score, judged in zip(scores, gold, strict=True)
    ]
    return alarm(after(*steps), Limits(gold_drop=0.5))


def test_rising_score_with_falling_gold_score_is_over_optimisation() -> None:
    rising = [step / 10 for step in range(20)]
    fall, limit = figures(course(rising, [*rising[:10], *(1 - step / 5 for step in range(10))]))
    assert float(fall) > float(limit) == 0.5
    assert course(rising, rising) == ""
    assert course(rising, [*rising[:19], 0.9]) == ""  # a single bad batch raises no alarm
    assert (
        course([1 - s for s in rising], [1 - s for s in rising]) == ""
    )  # both fall, which is not over-optimisation
