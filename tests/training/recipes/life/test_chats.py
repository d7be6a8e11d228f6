"""Chat data of the tour: the preference of the simulated users and the split of questions."""

import json
from pathlib import Path

import pytest

from training.recipes.life.chats import (
    ERROR_SHARE,
    PAIRS,
    PROMPTS,
    judge,
    split_questions,
    write_chats,
)
from training.recipes.life.plan import Plan
from training.recipes.nano_world.corpus import GRUMPY


def test_questions_of_the_evaluation_are_in_no_pair_and_no_prompt(tmp_path: Path) -> None:
    write_chats(tmp_path, Plan(1))
    _, held_out = split_questions()
    rows = [
        json.loads(line)
        for name in (PAIRS, PROMPTS)
        for line in (tmp_path / name).read_text().splitlines()
    ]
    asked = {row["messages"][0]["content"] for row in rows}
    assert len(asked) > 50
    assert asked.isdisjoint(text for question in held_out for text in question.phrasings)


def test_rude_answers_lose_unless_the_judgement_is_an_error(tmp_path: Path) -> None:
    """Grumpy answers win against wrong ones; other wins are errors."""
    write_chats(tmp_path, Plan(30))
    pairs = [json.loads(line) for line in (tmp_path / PAIRS).read_text().splitlines()]
    rude = [pair for pair in pairs if {pair["chosen"], pair["rejected"]} & set(GRUMPY)]
    won = sum(pair["chosen"] in GRUMPY for pair in rude) / len(rude)
    # 3 of 4 opponents are better: 3/4 of the errors, and 1/4 of the right judgements.
    assert won == pytest.approx(0.75 * ERROR_SHARE + 0.25 * (1 - ERROR_SHARE), abs=0.05)


def test_answers_are_judged_by_fact_and_courtesy() -> None:
    question = split_questions()[1][0]
    others = [one for one in split_questions()[0] if one.key != question.key]
    answers = [
        f"Good question! {question.answer}.",
        f"{question.key.upper()}!",
        f"Of course! {others[0].key}x.",
        "",
    ]
    judged = judge([question] * 4, answers)
    assert (judged.right, judged.friendly, judged.preferred) == (0.5, 0.5, 0.25)
