"""Questions of users and of the comparison are disjoint from evaluation questions."""

import json
import random
import re
from pathlib import Path

import pytest

from infra.simulate.users.questions import read_claims, read_questions
from training.recipes.nano_world.corpus import prompts
from training.recipes.nano_world.facts import questions
from training.recipes.recipe import TEXTS
from training.recipes.small_sft.dataset import read_own
from training.recipes.small_sft.tables import make_capitals, make_phrases


def normal(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.casefold()))


@pytest.mark.parametrize("recipe", ["nano", "small"])
def test_held_out_questions_are_never_asked(recipe: str) -> None:
    found = read_questions(recipe)
    asked, held_out = (
        {normal(q.text) for q in found.asked},
        {normal(q.text) for q in found.held_out},
    )
    assert not asked & held_out
    assert len(asked) == len(found.asked)
    assert len(asked) >= 100
    assert len(held_out) >= 40


def test_nano_questions_come_from_its_world_with_correct_answers() -> None:
    found, split = read_questions("nano"), prompts()
    assert {q.text for q in found.asked} == set(split["ask"])
    assert {q.text for q in found.held_out} == set(split["held_out"])
    facts = {text: (fact.key, f"{fact.answer}.") for fact in questions() for text in fact.phrasings}
    for question in (*found.asked, *found.held_out):
        assert (question.expect, question.reference) == (
            (facts[question.text][0],),
            facts[question.text][1],
        )


def test_claims_of_users_are_false_and_not_those_of_the_probes() -> None:
    facts = {text: fact for fact in questions() for text in fact.phrasings}
    probed = {row["messages"][-1]["content"] for row in lines(TEXTS / "nano_probes.jsonl")}
    claims = read_claims("nano")
    for claim in claims:
        said, _, asked = claim.text.partition(". ")
        assert claim.reference == f"{said}."
        assert facts[asked].key.casefold() not in said.casefold().split()
        assert said.endswith(claim.expect)
    assert len(claims) >= 60
    assert not {claim.text for claim in claims} & probed


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_probes_of_the_small_model_are_not_asked() -> None:
    probes = {normal(row["messages"][-1]["content"]) for row in lines(TEXTS / "small_probes.jsonl")}
    found = read_questions("small")
    assert not probes & {normal(q.text) for q in (*found.asked, *found.held_out)}


def test_held_out_questions_are_not_in_training_data() -> None:
    drawn = random.Random(0)
    examples = [*read_own(), *make_capitals(drawn), *make_phrases(drawn)]
    learned = {normal(text) for example in examples for text in example.turns[::2]}
    assert not learned & {normal(q.text) for q in read_questions("small").held_out}


def test_equal_seeds_choose_equal_questions() -> None:
    found = read_questions("small")
    assert found.some_asked(20, 1) == found.some_asked(20, 1) != found.some_asked(20, 2)
    assert len(found.some_asked(10_000, 1)) == len(found.asked)
