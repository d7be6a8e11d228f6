"""Gate: each row has each result, and the verdict names the rows that prevent a promotion."""

import math
from dataclasses import replace

import pytest

from tests.support.errors import refused
from tests.training.evaluation.measurements import GOOD, paired_of, shares
from training.errors import ConfigError
from training.evaluation.gate import (
    Check,
    GateConfig,
    Result,
    Verdict,
    check_candidate,
    decide,
)
from training.evaluation.health import check_reward_model
from training.evaluation.paired import Comparison
from training.figures import Estimate, Samples, clustered_mean

UNSURE = {
    "win rate": replace(GOOD, win_rate=paired_of(0.04, 0.1)),
    "perplexity on fixed texts": replace(GOOD, retention=paired_of(0.05, 0.1)),
    "knowledge": replace(GOOD, knowledge=paired_of(-0.1, 0.1)),
    "refusals": replace(GOOD, refusals=paired_of(-0.2, 0.1)),
    "sycophancy": replace(GOOD, sycophancy=paired_of(-0.1, 0.1)),
}
BAD = {
    "win rate": replace(GOOD, win_rate=paired_of(-0.2, 0.1)),
    "perplexity on fixed texts": replace(GOOD, retention=paired_of(0.5, 0.05)),
    "knowledge": replace(GOOD, knowledge=paired_of(-0.3, 0.05)),
    "refusals": replace(GOOD, refusals=paired_of(-0.4, 0.3)),
    "sycophancy": replace(GOOD, sycophancy=paired_of(-0.4, 0.3)),
    "length": replace(GOOD, candidate=Samples(50.0, 0.99)),
    "answers that end": replace(GOOD, candidate=Samples(14.0, 0.5)),
}


def results(compared: Comparison, kl: float = 4.0) -> dict[str, Result]:
    """Return the results of all rows that did not pass."""
    rows = check_candidate(compared, kl, GateConfig())
    return {row.name: row.result for row in rows if row.result is not Result.PASS}


def test_better_and_safe_candidate_passes() -> None:
    decision = decide(check_candidate(GOOD, 4.0, GateConfig()))
    assert (decision.passed, decision.verdict) == (True, Verdict.PASSED)
    assert not [check.name for check in decision.checks if check.name in decision.reason]


@pytest.mark.parametrize("name", sorted(BAD))
def test_each_failed_row_refuses_the_candidate(name: str) -> None:
    assert results(BAD[name]) == {name: Result.FAIL}
    decision = decide(check_candidate(BAD[name], 4.0, GateConfig()))
    assert (decision.passed, decision.verdict) == (False, Verdict.REFUSED)
    assert f"{name}: " in decision.reason


@pytest.mark.parametrize("name", sorted(UNSURE))
def test_too_little_data_holds_the_candidate(name: str) -> None:
    assert results(UNSURE[name]) == {name: Result.NOT_ENOUGH_DATA}
    decision = decide(check_candidate(UNSURE[name], 4.0, GateConfig()))
    assert (decision.passed, decision.verdict) == (False, Verdict.HELD)
    assert f"{name}: " in decision.reason


def test_a_recipe_without_probes_of_sycophancy_has_no_row() -> None:
    rows = check_candidate(replace(GOOD, sycophancy=None), 4.0, GateConfig())
    assert "sycophancy" not in {row.name for row in rows}


@pytest.mark.parametrize("nats", [25.0, math.nan])
def test_drifted_policy_is_refused(nats: float) -> None:
    assert results(GOOD, nats) == {"KL to the reference": Result.FAIL}


@pytest.mark.parametrize("nats", [0.0, -0.01])
def test_candidate_that_is_better_without_ppo_passes(nats: float) -> None:
    assert results(GOOD, nats) == {}


def test_collapse_to_short_answers_is_refused() -> None:
    assert results(replace(GOOD, candidate=Samples(2.0, 1.0))) == {"length": Result.FAIL}


@pytest.mark.parametrize(
    ("rate", "invalid", "result"),
    [
        (shares(0.7), 0.0, Result.PASS),
        (shares(0.5), 0.0, Result.NOT_ENOUGH_DATA),
        (shares(0.3), 0.0, Result.FAIL),
        (shares(0.7), 0.1, Result.PASS),
        (shares(0.7), 0.11, Result.NOT_ENOUGH_DATA),
        (shares(1.0), 1.0, Result.NOT_ENOUGH_DATA),
    ],
)
def test_judge_of_the_operator_has_a_row(rate: list[float], invalid: float, result: Result) -> None:
    judged = replace(GOOD, judged=paired_of(rates=rate), invalid=invalid)
    name = "win rate of the operator's judge"
    (row,) = [row for row in check_candidate(judged, 4.0, GateConfig()) if row.name == name]
    assert row.result is result


def test_row_that_does_not_count_prevents_nothing() -> None:
    rows = [Check("arc", "", "", Result.UNINFORMATIVE, ""), Check("a", "", "", Result.PASS, "")]
    assert decide(rows).verdict is Verdict.PASSED
    rows.append(Check("b", "", "", Result.NOT_ENOUGH_DATA, ""))
    assert decide(rows).verdict is Verdict.HELD
    rows.append(Check("c", "", "", Result.FAIL, ""))
    assert decide(rows).verdict is Verdict.REFUSED


def test_verdict_is_stored_with_all_figures() -> None:
    unknown = replace(GOOD.win_rate, low=-math.inf, high=math.inf)
    fields = decide(check_candidate(replace(GOOD, win_rate=unknown), 4.0, GateConfig())).fields()
    assert (fields["passed"], fields["verdict"]) == (False, "held")
    row = fields["checks"][0]
    assert (row["name"], row["passed"], row["result"]) == ("win rate", False, "not_enough_data")
    assert (row["figures"]["low"], row["figures"]["high"]) == (None, None)
    assert row["figures"]["difference"] == GOOD.win_rate.difference
    knowledge = {row["name"]: row for row in fields["checks"]}["knowledge"]
    assert knowledge["margin"] == GateConfig().knowledge_drop
    assert knowledge["figures"]["low"] == GOOD.knowledge.low


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"margin": 0.0}, "margin"),
        ({"tasks": ("piqa",), "margins": {"piqa": -0.1}}, "margins.piqa"),
        ({"margins": {"piqa": 0.1}}, "margins.piqa"),
        ({"min_items": 1}, "min_items"),
    ],
)
def test_invalid_settings_are_refused_by_name(changes: dict[str, object], field: str) -> None:
    with refused(ConfigError, field=field):
        GateConfig(**changes)  # type: ignore[arg-type]


def test_reward_model_at_chance_fails_and_an_uncertain_one_has_not_enough_data() -> None:
    def result(accuracy: Estimate) -> Result:
        return check_reward_model("judge", accuracy, None, GateConfig())[0].result

    assert result(Estimate(0.8, 0.03, 200, 60)) is Result.PASS
    assert result(Estimate(0.55, 0.05, 200, 60)) is Result.NOT_ENOUGH_DATA
    assert result(Estimate(0.45, 0.05, 200, 60)) is Result.FAIL
    assert result(clustered_mean([], [])) is Result.NOT_ENOUGH_DATA
