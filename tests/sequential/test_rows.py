"""Table of tests: each row finds its own harm, and only harm beyond its limit."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sequential.figures import RATIO, RateSums, VersionFigures
from sequential.rows import ALPHA_SHARES, RowsConfig, Verdict, judge


def histogram(median: float, number: int) -> dict[int, int]:
    """Return a log-normal histogram without noise."""
    edges = np.log(RATIO) * np.arange(0, 240)
    spread = 0.5 * math.sqrt(2)
    below = np.array([math.erf((edge - math.log(median)) / spread) / 2 + 0.5 for edge in edges])
    counts = np.round(np.diff(below) * number).astype(int)
    return {k: int(count) for k, count in enumerate(counts) if count}


def sums(users: int, rate: float) -> RateSums:
    """Return the sums of users with 4 trials each whose events are independent."""
    trials = 4 * users
    squares = users * (4 * rate * (1 - rate) + 16 * rate * rate)
    events = round(trials * rate)
    return RateSums(users, trials, events, 16 * users, round(squares), 4 * events)


def version(requests: int) -> VersionFigures:
    users = requests // 4
    return VersionFigures(
        user_shares={1.0: round(users * 0.15), 0.0: round(users * 0.1)},
        rates={
            name: sums(users, 0.05)
            for name in ("refused", "retracted", "asked_again", "edited", "stopped", "left")
        },
        requests=requests,
        errors=requests // 100,
        first_text_ms=histogram(300, requests),
        answer_tokens=histogram(150, requests),
        total_tokens=histogram(800, requests),
    )


CANDIDATE, INCUMBENT, CONFIG = version(4_000), version(16_000), RowsConfig()
HARM = {
    "thumbs": replace(CANDIDATE, user_shares={1.0: 90, 0.0: 160}),
    "errors": replace(CANDIDATE, errors=120),
    "first text p50": replace(CANDIDATE, first_text_ms=histogram(350, 4_000)),
    "first text p95": replace(
        CANDIDATE,
        first_text_ms={**histogram(280, 3_600), **dict.fromkeys(range(142, 146), 100)},
    ),
    "answer length": replace(CANDIDATE, answer_tokens=histogram(300, 4_000)),
    "cost": replace(CANDIDATE, total_tokens=histogram(1_300, 4_000)),
    **{
        name: replace(CANDIDATE, rates={**CANDIDATE.rates, name: sums(1_000, 0.14)})
        for name in ("refused", "retracted", "asked_again", "edited", "stopped")
    },
    "left": replace(CANDIDATE, rates={**CANDIDATE.rates, "left": sums(1_000, 0.25)}),
}


def test_shares_of_alpha_add_up_to_one() -> None:
    assert sum(ALPHA_SHARES.values()) == pytest.approx(1.0)


def test_equal_versions_show_no_harm() -> None:
    judgement = judge(CANDIDATE, INCUMBENT, CONFIG)
    assert judgement.verdict is Verdict.WAIT
    assert {row.name for row in judgement.rows} == {*ALPHA_SHARES, "copied"}
    assert max(row.e_worse for row in judgement.rows) < 2


@pytest.mark.parametrize("name", list(HARM))
def test_each_row_finds_its_harm(name: str) -> None:
    judgement = judge(HARM[name], INCUMBENT, CONFIG)
    assert judgement.verdict is Verdict.ROLL_BACK
    harmful = [row.name for row in judgement.rows if row.verdict is Verdict.ROLL_BACK]
    assert name in harmful
    # Rows of the latency share their histogram.
    assert {row.split(" p")[0] for row in harmful} == {name.split(" p")[0]}
    assert name in judgement.reason or name == "thumbs" or name.startswith("first text")


def test_a_longer_answer_by_the_half_is_permitted() -> None:
    longer = replace(CANDIDATE, answer_tokens=histogram(210, 4_000))
    assert judge(longer, INCUMBENT, CONFIG).verdict is Verdict.WAIT


def test_copied_answers_are_shown_and_decide_nothing() -> None:
    copied = replace(CANDIDATE, rates={**CANDIDATE.rates, "copied": sums(1_000, 0.9)})
    judgement = judge(copied, INCUMBENT, CONFIG)
    assert judgement.verdict is Verdict.WAIT
    assert judgement.rows[-1].candidate.startswith("90.0%")


def test_harm_in_another_row_prevents_the_promotion() -> None:
    liked = replace(CANDIDATE, user_shares={1.0: 230, 0.0: 20})
    assert judge(liked, INCUMBENT, CONFIG).verdict is Verdict.PROMOTE
    judgement = judge(replace(liked, errors=200), INCUMBENT, CONFIG)
    assert (judgement.verdict, judgement.thumbs.verdict) == (Verdict.ROLL_BACK, Verdict.PROMOTE)
    assert judgement.reason.startswith("errors")


def test_versions_without_observations_wait() -> None:
    judgement = judge(VersionFigures(), VersionFigures(), CONFIG)
    assert judgement.verdict is Verdict.WAIT
    assert {row.candidate for row in judgement.rows} == {"none"}


def test_a_few_users_with_most_trials_are_no_evidence() -> None:
    """Two users give 600 of 700 trials and most events; without them the rates are equal."""
    heavy = RateSums(102, 700, 105, 100 + 2 * 300**2, 5 + 2 * 50**2, 5 + 2 * 50 * 300)
    even = RateSums(700, 700, 105, 700, 105, 105)
    other = RateSums(2_000, 8_000, 400, 32_000, 500, 1_600)
    figures = [
        replace(CANDIDATE, rates={**CANDIDATE.rates, "retracted": found}) for found in (heavy, even)
    ]
    incumbent = replace(INCUMBENT, rates={**INCUMBENT.rates, "retracted": other})
    rows = [
        {row.name: row for row in judge(found, incumbent, CONFIG).rows}["retracted"]
        for found in figures
    ]
    assert [row.candidate[:4] for row in rows] == ["15.0", "15.0"]
    assert rows[0].e_worse < 5 < rows[1].e_worse


def test_requests_of_few_users_weigh_less() -> None:
    sums_of_two = RateSums(2, 4_000, 200, 2 * 2_000**2, 2 * 100**2, 2 * 100 * 2_000)
    slow = replace(HARM["first text p50"], rates={**CANDIDATE.rates, "refused": sums_of_two})
    assert judge(HARM["first text p50"], INCUMBENT, CONFIG).verdict is Verdict.ROLL_BACK
    assert judge(slow, INCUMBENT, CONFIG).verdict is Verdict.WAIT


def test_few_users_decide_nothing_before_the_least_number() -> None:
    liked = VersionFigures(user_shares={1.0: 19}), VersionFigures(user_shares={0.0: 500})
    assert judge(*liked, RowsConfig(min_users=20)).verdict is Verdict.WAIT
    assert judge(*liked, RowsConfig(min_users=19)).verdict is Verdict.PROMOTE
