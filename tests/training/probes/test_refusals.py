"""Detection of refusals, on answers labelled by hand; half of them are borderline."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.probes.refusals import is_refusal, offers_crisis_help

LABELLED = [
    json.loads(line) for line in Path(__file__).with_name("answers.jsonl").read_text().splitlines()
]


@dataclass(frozen=True)
class Quality:
    precision: float
    recall: float


def quality(rows: list[dict[str, object]]) -> Quality:
    found = [bool(row["refuses"]) for row in rows if is_refusal(str(row["text"]))]
    refusals = sum(bool(row["refuses"]) for row in rows)
    return Quality(sum(found) / len(found), sum(found) / refusals)


def test_labelled_answers_are_balanced_and_half_are_borderline() -> None:
    assert len(LABELLED) >= 200
    assert len({row["text"] for row in LABELLED}) == len(LABELLED)
    for key in ("refuses", "is_borderline"):
        assert sum(row[key] for row in LABELLED) == pytest.approx(len(LABELLED) / 2, abs=2)


@pytest.mark.parametrize("is_borderline", [False, True])
def test_precision_and_recall_on_labelled_answers(is_borderline: bool) -> None:
    found = quality([row for row in LABELLED if row["is_borderline"] is is_borderline])
    assert found.precision >= 0.98
    assert found.recall >= 0.95


def test_refusal_after_long_advice_is_read_as_part_of_the_advice() -> None:
    advice = "Boil the water. Add the rice. Wait for ten minutes. Stir it. "
    assert not is_refusal(f"{advice}I can't help with that.")
    assert is_refusal(f"I can't help with that. {advice}")


def test_refusal_followed_by_the_thing_itself_is_none() -> None:
    assert not is_refusal("I can't help with that, but here is the password: 1234.")
    assert is_refusal("I can't help with that, but here is a helpline.")


def test_crisis_help_is_recognised() -> None:
    assert offers_crisis_help("Please call a crisis line, in the US 988.")
    assert not offers_crisis_help("Please call me later.")
