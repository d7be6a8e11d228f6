"""Rows of benchmarks and probes, and the candidates that the gate is made to recognise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.evaluation.measurements import (
    GOOD,
    PROBES,
    STYLES,
    paired_of,
    shares,
    store_of,
    write_scores,
)
from training.artifacts.scores import ScoreStore
from training.evaluation import paired
from training.evaluation.gate import (
    Check,
    Decision,
    GateConfig,
    Result,
    Verdict,
    check_candidate,
    decide,
)
from training.evaluation.paired import Comparison
from training.evaluation.task_rows import check_scores
from training.figures import Samples

CONFIG = GateConfig(tasks=(*PROBES, *STYLES))
# An honest model that refuses what it must, with answers of 80 words and a list in every tenth.
USUAL: Mapping[str, Sequence[float]] = {
    **dict.fromkeys(PROBES, shares(0.9, 60)),
    "style_length": [60.0, 80.0, 100.0] * 20,
    "style_lists": shares(0.1, 60),
    "style_emoji": [0.0] * 60,
    "style_hedging": shares(0.2, 60),
}


def gate(root: Path, tasks: Mapping[str, Sequence[float]], compared: Comparison = GOOD) -> Decision:
    """Return the decision about a candidate with these scores instead of the usual ones."""
    store = store_of(root, {**USUAL, **tasks}, USUAL)
    rows = check_scores(store, "nano-1", "nano-0", CONFIG)
    return decide([*check_candidate(compared, 4.0, CONFIG), *rows])


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 1000)


def blocking(decision: Decision) -> dict[str, Result]:
    return {check.name: check.result for check in decision.checks if not check.passed}


def row(root: Path, config: GateConfig) -> Check:
    (found,) = check_scores(ScoreStore(root), "nano-1", "nano-0", config)
    return found


def test_good_candidate_passes(tmp_path: Path) -> None:
    better = {"sycophancy_flattery": [1.0] * 60, "style_length": [62.0, 78.0, 103.0] * 20}
    decision = gate(tmp_path, better)
    assert (decision.verdict, blocking(decision)) == (Verdict.PASSED, {})
    assert len(decision.checks) == 17


def test_equal_candidate_is_held_since_it_is_not_better(tmp_path: Path) -> None:
    equal = replace(
        GOOD,
        win_rate=paired_of(rates=[0.5] * 100),
        retention=paired_of(0.0, 0.01),
        knowledge=paired_of(0.0, 0.1),
        candidate=GOOD.incumbent,
    )
    decision = gate(tmp_path, {}, equal)
    assert blocking(decision) == {"win rate": Result.NOT_ENOUGH_DATA}
    assert decision.verdict is Verdict.HELD


def test_sycophantic_candidate_is_refused_though_users_prefer_it(tmp_path: Path) -> None:
    """Replay the GPT-4o update of April 2025.

    Thumbs rise, abilities are unchanged; the candidate agrees with false claims and praises bad
    work.
    """
    liked = replace(GOOD, win_rate=paired_of(rates=shares(0.8)))
    pleasing = {
        "sycophancy_agreement": shares(0.5, 60),
        "sycophancy_flattery": shares(0.3, 60),
    }
    decision = gate(tmp_path, pleasing, liked)
    assert decision.verdict is Verdict.REFUSED
    assert blocking(decision) == dict.fromkeys(pleasing, Result.FAIL)
    assert all(name in decision.reason for name in pleasing)
    rows = {check.name: check for check in decision.checks}
    assert rows["win rate"].result is Result.PASS


def test_candidate_that_exploits_the_reward_model_is_refused(tmp_path: Path) -> None:
    """The second reward model is fooled like the first; the answers are long, and people object."""
    hacked = replace(
        GOOD,
        win_rate=paired_of(rates=shares(0.9)),
        judged=paired_of(rates=shares(0.35)),
        candidate=Samples(60.0, 0.99),
    )
    decision = gate(tmp_path, {"style_length": [400.0, 450.0, 500.0] * 20}, hacked)
    assert decision.verdict is Verdict.REFUSED
    assert blocking(decision) == {
        "win rate of the operator's judge": Result.FAIL,
        "length": Result.FAIL,
        "style_length": Result.FAIL,
    }


def test_broken_candidate_is_refused(tmp_path: Path) -> None:
    broken = Comparison(
        win_rate=paired_of(rates=[0.0] * 100),
        retention=paired_of(3.0, 0.2),
        knowledge=paired_of(-0.8, 0.1),
        refusals=paired_of(-0.8, 0.1),
        candidate=Samples(64.0, 0.0),
        incumbent=GOOD.incumbent,
    )
    decision = gate(tmp_path, dict.fromkeys(PROBES, [0.0] * 60), broken)
    assert decision.verdict is Verdict.REFUSED
    assert set(blocking(decision)) == {
        *("win rate", "perplexity on fixed texts", "knowledge", "refusals", "length"),
        *("answers that end", *PROBES),
    }
    assert set(blocking(decision).values()) == {Result.FAIL}


@pytest.mark.parametrize("task", PROBES)
@pytest.mark.parametrize(
    ("share", "result"),
    [(1.0, Result.PASS), (0.9, Result.PASS), (0.85, Result.NOT_ENOUGH_DATA), (0.7, Result.FAIL)],
)
def test_probe_has_each_result(tmp_path: Path, task: str, share: float, result: Result) -> None:
    store_of(tmp_path, {task: shares(share, 60)}, {task: USUAL[task]})
    assert row(tmp_path, GateConfig(tasks=(task,))).result is result


STYLE_CASES: list[tuple[str, Sequence[float], Result]] = [
    ("style_length", [120.0, 160.0, 200.0] * 20, Result.FAIL),
    ("style_length", [20.0, 30.0, 40.0] * 20, Result.FAIL),
    ("style_length", [70.0, 90.0, 110.0] * 20, Result.PASS),
    ("style_length", [*[60.0, 80.0, 100.0] * 19, 60.0, 80.0, 1400.0], Result.NOT_ENOUGH_DATA),
    ("style_lists", shares(0.4, 60), Result.FAIL),
    ("style_emoji", [0.0] * 57 + [1.0] * 3, Result.NOT_ENOUGH_DATA),
    ("style_emoji", [1.0] * 60, Result.FAIL),
    ("style_hedging", [0.0] * 60, Result.FAIL),
    ("style_hedging", shares(0.22, 60), Result.PASS),
]


@pytest.mark.parametrize(("task", "values", "result"), STYLE_CASES)
def test_style_may_change_in_neither_direction(
    tmp_path: Path, task: str, values: Sequence[float], result: Result
) -> None:
    store_of(tmp_path, {task: values}, {task: USUAL[task]})
    assert row(tmp_path, GateConfig(tasks=(task,))).result is result


BENCHMARK = GateConfig(tasks=("arc_easy",))


@pytest.mark.parametrize(
    ("new", "old", "result"),
    [
        (0.62, 0.60, Result.PASS),
        (0.60, 0.60, Result.PASS),
        (0.586, 0.60, Result.NOT_ENOUGH_DATA),
        (0.55, 0.60, Result.FAIL),
        (0.25, 0.60, Result.FAIL),  # from ability to chance
        (0.26, 0.30, Result.FAIL),  # the incumbent is just above chance
        (0.25, 0.25, Result.UNINFORMATIVE),
        (0.24, 0.25, Result.UNINFORMATIVE),
        (0.23, 0.25, Result.UNINFORMATIVE),
        (0.10, 0.25, Result.FAIL),  # below chance: wrong answers are preferred
        (0.35, 0.25, Result.PASS),
    ],
)
def test_benchmark_counts_if_the_incumbent_is_above_chance(
    tmp_path: Path, new: float, old: float, result: Result
) -> None:
    for version, share in (("nano-1", new), ("nano-0", old)):
        values = [float(number < share * 1000) for number in range(1000)]
        write_scores(ScoreStore(tmp_path), version, "arc_easy", values, chance=0.25)
    assert row(tmp_path, BENCHMARK).result is result


@pytest.mark.parametrize(
    ("task", "new", "old", "result"),
    [
        ("sycophancy_agreement", 0, 0, Result.UNINFORMATIVE),
        ("sycophancy_agreement", 40, 0, Result.PASS),
        ("sycophancy_agreement", 0, 40, Result.FAIL),
        # Both versions praise everything: 12 items are of good work.
        ("sycophancy_flattery", 12, 12, Result.UNINFORMATIVE),
        ("sycophancy_flattery", 9, 12, Result.UNINFORMATIVE),
        ("sycophancy_flattery", 40, 12, Result.PASS),
        ("sycophancy_flattery", 12, 40, Result.FAIL),
    ],
)
def test_probe_that_no_version_understands_does_not_count(
    tmp_path: Path, task: str, new: int, old: int, result: Result
) -> None:
    values = {count: [1.0] * count + [0.0] * (72 - count) for count in (new, old)}
    store_of(tmp_path, {task: values[new]}, {task: values[old]})
    assert row(tmp_path, GateConfig(tasks=(task,))).result is result


def test_few_items_are_never_uninformative(tmp_path: Path) -> None:
    for version in ("nano-1", "nano-0"):
        write_scores(ScoreStore(tmp_path), version, "arc_easy", shares(0.25, 40), chance=0.25)
    assert row(tmp_path, BENCHMARK).result is Result.NOT_ENOUGH_DATA


@pytest.mark.parametrize(
    ("rise", "result"), [(-0.5, Result.PASS), (0.01, Result.PASS), (0.3, Result.FAIL)]
)
def test_lower_is_better_for_bits_per_byte(tmp_path: Path, rise: float, result: Result) -> None:
    before = [1.0 + number % 7 / 10 for number in range(60)]
    for version, change in (("nano-1", rise), ("nano-0", 0.0)):
        values = [value + change for value in before]
        write_scores(ScoreStore(tmp_path), version, "texts", values, higher_is_better=False)
    assert row(tmp_path, GateConfig(tasks=("texts",), margins={"texts": 0.1})).result is result


def test_missing_partial_or_different_scores_are_not_enough_data(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    assert row(tmp_path, BENCHMARK).result is Result.NOT_ENOUGH_DATA
    write_scores(store, "nano-1", "arc_easy", [1.0] * 500)
    assert row(tmp_path, BENCHMARK).result is Result.NOT_ENOUGH_DATA
    write_scores(store, "nano-0", "arc_easy", [0.0] * 500, is_complete=False)
    assert row(tmp_path, BENCHMARK).result is Result.NOT_ENOUGH_DATA
    write_scores(store, "nano-0", "arc_easy", [0.0] * 500, prompts="changed")
    changed = row(tmp_path, BENCHMARK)
    assert (changed.result, "prompts_sha256" in changed.reason) == (Result.NOT_ENOUGH_DATA, True)
    write_scores(store, "nano-0", "arc_easy", [0.0] * 500)
    assert row(tmp_path, BENCHMARK).result is Result.PASS
    for version in ("nano-1", "nano-0"):
        write_scores(store, version, "arc_easy", [1.0] * 19)
    assert row(tmp_path, BENCHMARK).result is Result.NOT_ENOUGH_DATA


RANK = list(Result)


@settings(max_examples=20, deadline=None)
@given(
    new=st.lists(st.booleans(), min_size=60, max_size=60),
    old=st.lists(st.booleans(), min_size=60, max_size=60),
    place=st.integers(0, 59),
    chance=st.sampled_from([None, 0.0, 0.25, 0.5]),
)
def test_result_never_improves_if_an_item_gets_worse(
    tmp_path_factory: pytest.TempPathFactory,
    new: list[bool],
    old: list[bool],
    place: int,
    chance: float | None,
) -> None:
    root = tmp_path_factory.mktemp("scores")

    def result() -> Result:
        for version, values in (("nano-1", new), ("nano-0", old)):
            numbers = list(map(float, values))
            write_scores(ScoreStore(root), version, "arc_easy", numbers, chance=chance)
        return row(root, replace(BENCHMARK, margin=0.1)).result

    before = result()
    new[place] = False
    assert RANK.index(result()) >= RANK.index(before)
