"""Alarms: each on figures that the reward alone would be proud of."""

from training.rl.alarms import Limits, alarm, note

HEALTHY = {"score": 0.1, "kl": 1.0, "eos_rate": 1.0, "response_tokens": 20.0}


def after(*figures: dict[str, float]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for changes in figures:
        note(numbers, HEALTHY | changes)
    return numbers


def test_a_healthy_run_raises_no_alarm() -> None:
    assert alarm(after({}, {"score": 0.9}), Limits()) == ""


def test_drifting_and_collapse_are_named_with_their_limits() -> None:
    assert "25.00 nats, above the ceiling of 20" in alarm(after({}, {"kl": 25.0}), Limits())
    assert "4.0 tokens, below the floor of 5.0" in alarm(after({}, {"response_tokens": 4.0}), Limits())


def test_without_a_reference_no_ceiling_is_asked() -> None:
    numbers = after({})
    del numbers["last_kl"]
    assert alarm(numbers, Limits(kl_ceiling_nats=None)) == ""


def course(scores: list[float], gold: list[float]) -> str:
    figures = [{"score": score, "gold_score": judged} for score, judged in zip(scores, gold, strict=True)]
    return alarm(after(*figures), Limits(gold_drop=0.5))


def test_a_score_that_rises_while_the_gold_judge_falls_is_over_optimisation() -> None:
    rising = [step / 10 for step in range(20)]
    assert "over-optimisation" in course(rising, [*rising[:10], *(1 - step / 5 for step in range(10))])
    assert course(rising, rising) == ""
    assert course(rising, [*rising[:19], 0.9]) == ""  # one bad batch is none
    assert course([1 - s for s in rising], [1 - s for s in rising]) == ""  # both fall: bad, but not this
