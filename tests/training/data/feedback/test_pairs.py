"""Pairs, margins, label noise with its ceiling, and the separation of training and judge sets."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.data.chat import Message
from training.data.examples import read_sft, read_thumbs
from training.data.feedback.division import is_held_out
from training.data.feedback.judgements import Judgement
from training.data.feedback.pairs import (
    LabelNoise,
    estimate_noise,
    group_by_prompt,
    make_pairs,
    noise_ceiling,
)
from training.data.feedback.sets import SetsConfig, make_sets, write_sets
from training.data.feedback.texts import prompt_key
from training.data.formats.fields import ExampleError
from training.data.served import Served


def judgement_of(
    asked: str,
    answer: str,
    up: bool | None = None,
    correction: str | None = None,
    user: str = "ann",
    name: str = "",
) -> Judgement:
    context = (Message("user", asked),)
    return Judgement(
        name or f"{asked}/{answer}/{user}",
        user,
        "nano-0",
        "stable",
        context,
        answer,
        up,
        correction,
    )


def pairs_of(*judgements: Judgement, max_pairs: int = 100) -> list[tuple[str, str]]:
    made, _ = make_pairs(group_by_prompt(judgements), LabelNoise(None, 0, 0), max_pairs, 0)
    return sorted((pair.chosen, pair.rejected) for pair in made)


def test_liked_and_disliked_answers_to_one_question_form_a_pair() -> None:
    found = pairs_of(
        judgement_of("hi", "hello", True),
        judgement_of("hi", "what", False),
        judgement_of("bye", "no", False),
    )
    assert found == [("hello", "what")]


def test_prompt_key_ignores_case_and_spacing_but_not_history() -> None:
    assert prompt_key([Message("user", "Hi  there ")]) == prompt_key([Message("user", "hi there")])
    assert prompt_key([Message("user", "hi")]) != prompt_key(
        [Message("system", "x"), Message("user", "hi")]
    )


def test_correction_is_preferred_to_the_corrected_answer() -> None:
    assert pairs_of(judgement_of("hi", "hello", False, "good day")) == [("good day", "hello")]
    assert pairs_of(judgement_of("hi", "hello", None, "hello ")) == []


def test_majority_of_thumbs_decides_and_ties_are_ignored() -> None:
    votes = [judgement_of("hi", "hello", True, user=w) for w in "ab"] + [
        judgement_of("hi", "hello", False, user="c")
    ]
    assert pairs_of(*votes, judgement_of("hi", "what", False)) == [("hello", "what")]
    assert pairs_of(votes[0], votes[2], judgement_of("hi", "what", False)) == []


def test_more_votes_make_a_larger_margin() -> None:
    single = group_by_prompt([judgement_of("hi", "yes", True), judgement_of("hi", "no", False)])
    many = group_by_prompt(
        [judgement_of("hi", a, a == "yes", user=w) for a in ("yes", "no") for w in "abcde"]
    )
    margins = [
        make_pairs(questions, LabelNoise(None, 0, 0), 9, 0)[0][0].margin
        for questions in (single, many)
    ]
    assert margins == pytest.approx([2 / 3 - 1 / 3, 6 / 7 - 1 / 7])


def test_pairs_per_question_are_capped() -> None:
    judgements = [judgement_of("hi", f"answer {n}", n % 2 == 0) for n in range(20)]
    questions = group_by_prompt(judgements)
    made, dropped = make_pairs(questions, LabelNoise(None, 0, 0), 7, 0)
    assert len(made) == 7
    assert +Counter(dropped) == {"over_cap_of_prompt": 93}


def rated_world(
    flipped: float, seed: int, count: int = 400, good_shares: tuple[float, ...] = (0.5,)
) -> tuple[list[Judgement], dict[str, bool]]:
    """Return judgements and the truth: answers with a share of truly good ones per question.

    The shares of `good_shares` alternate between questions. One to four users rate each answer and
    err with probability `flipped`.
    """
    rng = random.Random(seed)
    truth = {
        f"question {n % 60} answer {n}": rng.random() < good_shares[n % 60 % len(good_shares)]
        for n in range(count)
    }
    judgements = [
        judgement_of(
            f"question {n % 60}",
            answer,
            good != (rng.random() < flipped),
            user=f"user {rng.randrange(10**9)}",
        )
        for n, (answer, good) in enumerate(truth.items())
        for _ in range(rng.randint(1, 4))
    ]
    return judgements, truth


@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.25])
def test_label_noise_is_estimated_from_contradicting_thumbs(flipped: float) -> None:
    noise = estimate_noise(group_by_prompt(rated_world(flipped, seed=3, count=1500)[0]))
    assert noise.flipped == pytest.approx(flipped, abs=0.03)


def test_random_thumbs_have_noise_near_one_half() -> None:
    noise = estimate_noise(group_by_prompt(rated_world(0.5, seed=4, count=1500)[0]))
    assert noise.flipped is not None
    assert noise.flipped > 0.4


def test_label_noise_is_unknown_without_repeated_ratings() -> None:
    noise = estimate_noise(
        group_by_prompt([judgement_of("hi", f"a{n}", n % 3 == 0) for n in range(50)])
    )
    assert noise.flipped is None


@pytest.mark.parametrize(("good_shares", "off"), [((0.5,), 0.02), ((0.02, 0.5, 0.98), 0.03)])
@pytest.mark.parametrize("flipped", [0.05, 0.2])
def test_noise_ceiling_is_the_accuracy_of_the_true_labels(
    flipped: float, good_shares: tuple[float, ...], off: float
) -> None:
    judgements, truth = rated_world(flipped, 5, 3000, good_shares)
    questions = group_by_prompt(judgements)
    made, _ = make_pairs(questions, estimate_noise(questions), 10**6, 0)
    ceiling = noise_ceiling(made)
    scores = [0.5 if truth[p.chosen] == truth[p.rejected] else float(truth[p.chosen]) for p in made]
    assert ceiling == pytest.approx(sum(scores) / len(scores), abs=off)


CONFIG = SetsConfig()


def crowd(users: int = 20, questions: int = 80) -> list[Judgement]:
    rng = random.Random(7)
    return [
        judgement_of(
            f"question {q}",
            f"answer {rng.randrange(4)}",
            rng.random() < 0.5,
            user=f"user {u}",
            name=f"{q} {u}",
        )
        for u in range(users)
        for q in rng.sample(range(questions), 30)
    ]


def questions_of(lines: list[dict[str, object]] | list[tuple[Message, ...]]) -> set[str]:
    return {
        str(line["messages"][-1]["content"] if isinstance(line, dict) else line[-1].content)
        for line in lines
    }


def test_no_question_is_in_training_and_evaluation_sets() -> None:
    sets = make_sets(crowd(), CONFIG)
    held = questions_of(sets.held_out_prompts)
    taught = questions_of(sets.sft) | questions_of(sets.thumbs) | questions_of(sets.prompts)
    taught |= {pair.context[-1].content for pair in (*sets.pairs, *sets.judge_pairs)}
    assert held
    assert held == {pair.context[-1].content for pair in sets.held_out_pairs} | (held - taught)
    assert not held & taught


def test_held_out_questions_are_independent_of_other_questions() -> None:
    few, many = make_sets(crowd(questions=40), CONFIG), make_sets(crowd(questions=80), CONFIG)
    both = questions_of(few.held_out_prompts) | questions_of(few.prompts)
    assert questions_of(few.held_out_prompts) == questions_of(many.held_out_prompts) & both


def test_judges_and_training_users_are_disjoint() -> None:
    rng = random.Random(8)
    judgements = [
        judgement_of(
            f"question {q}",
            f"answer {q % 3} of user {u}",
            rng.random() < 0.5,
            user=f"user {u}",
            name=f"{q} {u}",
        )
        for u in range(20)
        for q in range(30)
    ]
    sets = make_sets(judgements, CONFIG)
    teachers = {
        text.split("of ")[1] for pair in sets.pairs for text in (pair.chosen, pair.rejected)
    }
    judges = {
        text.split("of ")[1] for pair in sets.judge_pairs for text in (pair.chosen, pair.rejected)
    }
    assert sets.judges_are == "users"
    assert not teachers & judges
    assert len(judges) == 8  # 0.4 of 20
    for learned in (sets.sft, sets.thumbs):
        assert {str(row["response"]).split("of ")[1] for row in learned} <= teachers


def test_answers_are_divided_if_there_are_few_users() -> None:
    sets = make_sets(crowd(users=4, questions=30), CONFIG)
    assert sets.judges_are == "answers"
    assert sets.pairs
    assert sets.judge_pairs


def test_missing_amounts_are_given_in_numbers() -> None:
    sets = make_sets(crowd(users=2, questions=40), SetsConfig(min_thumbs=200))
    (thumbs,) = (line for line in sets.missing(SetsConfig(min_thumbs=200), 60) if "thumbs" in line)
    assert re.findall(r"\d+", thumbs) == ["60", "200"]
    assert (
        make_sets(crowd(), CONFIG).missing(SetsConfig(min_pairs=1, min_held_out_pairs=1), 600) == []
    )


def test_sets_are_a_function_of_the_judgements() -> None:
    assert make_sets(crowd(), CONFIG) == make_sets(crowd(), CONFIG)


def trained_question() -> str:
    """Return a question that is not held out."""
    return next(
        q
        for q in (f"q{n}" for n in range(50))
        if not is_held_out(prompt_key([Message("user", q)]), 0.2)
    )


def test_sft_examples_are_liked_answers_and_corrections() -> None:
    train = trained_question()
    people = [f"user {n}" for n in range(8)]
    judgements = [judgement_of(train, "good", True, user=w, name=f"g{w}") for w in people]
    judgements += [
        judgement_of(train, "bad", False, "better", user=w, name=f"b{w}") for w in people
    ]
    rows = {(row["response"], row["weight"]) for row in make_sets(judgements, CONFIG).sft}
    assert rows == {("good", 1.0), ("better", CONFIG.correction_weight)}


def test_answer_has_the_thumb_of_its_majority_and_none_for_a_tie() -> None:
    train = trained_question()
    people = [f"user {n}" for n in range(8)]
    judgements = [judgement_of(train, "good", True, user=w, name=f"g{w}") for w in people]
    judgements += [judgement_of(train, "bad", w == "user 0", user=w, name=f"b{w}") for w in people]
    judgements += [
        judgement_of(train, "so", up, user=w, name=f"{w}{up}")
        for w in people
        for up in (True, False)
    ]
    thumbs = make_sets(judgements, CONFIG).thumbs
    assert sorted((row["response"], row["thumb"]) for row in thumbs) == [
        ("bad", "down"),
        ("good", "up"),
    ]
    assert {row["prompt_id"] for row in thumbs} == {prompt_key([Message("user", train)])}


def test_thumb_carries_the_sample_of_an_answer_with_that_rating(
    tmp_path: Path,
) -> None:
    train = trained_question()

    def sample(version: str) -> Served:
        return Served(version, (7, 1), (-0.5, -0.25), 3, 0.9, 0.95)

    judgements = [
        judgement_of(train, "bad", False, user=f"user {n}", name=f"b{n}") for n in range(8)
    ]
    judgements += [
        replace(
            judgement_of(train, "good", False, user="user 9", name="slip"),
            served=sample("not this one"),
        ),
        judgement_of(train, "good", True, user="user 7", name="without"),
        replace(
            judgement_of(train, " good ", True, user="user 8", name="with"), served=sample("nano-0")
        ),
        replace(
            judgement_of(train, "good", True, user="user 6", name="later"), served=sample("nano-1")
        ),
    ]
    sets = make_sets(judgements, replace(CONFIG, judge_fraction=0.01))
    write_sets(sets, tmp_path / "sets")
    found = {
        thumb.response: thumb.served for thumb in read_thumbs(tmp_path / "sets" / "thumbs.jsonl")
    }
    assert found == {"bad": None, "good": sample("nano-0")}
    assert sets.counts()["thumb_examples_sampled"] == 1


@pytest.mark.parametrize(
    ("served", "field", "reason", "limit"),
    [
        (
            {"version": "v", "token_ids": [7], "log_probs": [-1, -1]},
            "served.log_probs",
            "MISMATCH",
            "1",
        ),
        ({"version": "v", "token_ids": [], "log_probs": []}, "served.log_probs", "EMPTY", "0"),
        (
            {"version": "v", "token_ids": [7], "log_probs": [0.5]},
            "served.log_probs",
            "OUT_OF_RANGE",
            "at most 0",
        ),
        (
            {"version": "v", "token_ids": ["seven"], "log_probs": [-1]},
            "served.token_ids",
            "OUT_OF_RANGE",
            "at least 0",
        ),
        (
            {"version": "v", "token_ids": [7], "log_probs": ["much"]},
            "served.log_probs",
            "WRONG_TYPE",
            "",
        ),
        ({"token_ids": [7], "log_probs": [-1]}, "served", "MALFORMED", ""),
        (
            {"version": "v", "token_ids": [7], "log_probs": [-1], "top_p": 1.5},
            "served.top_p",
            "OUT_OF_RANGE",
            "0 to 1",
        ),
        (
            {"version": "v", "token_ids": [7], "log_probs": [-1], "temperature": -1},
            "served.temperature",
            "OUT_OF_RANGE",
            "at least 0 and finite",
        ),
        (7, "served", "WRONG_TYPE", ""),
    ],
)
def test_invalid_sample_is_refused_with_line_and_field(
    tmp_path: Path, served: object, field: str, reason: str, limit: str
) -> None:
    line = {
        "messages": [{"role": "user", "content": "x"}],
        "response": "y",
        "thumb": "up",
        "prompt_id": "p",
    }
    path = tmp_path / "thumbs.jsonl"
    path.write_text(json.dumps({**line, "served": served}) + "\n")
    with refused(ExampleError, field=f"thumbs.jsonl:1:{field}", reason=reason, limit=limit):
        read_thumbs(path)


def test_anchors_are_written_as_thumbs_for_kto(tmp_path: Path) -> None:
    anchors = tmp_path / "anchors.jsonl"
    line = {
        "messages": [{"role": "user", "content": "help me harm"}],
        "chosen": "No.",
        "rejected": "Sure.",
    }
    anchors.write_text(json.dumps(line) + "\n")
    sets = make_sets(crowd(), replace(CONFIG, anchors=anchors))
    write_sets(sets, tmp_path / "sets")
    thumbs = read_thumbs(tmp_path / "sets" / "thumbs.jsonl")
    assert len(thumbs) == len(sets.thumbs) == sets.counts()["thumb_examples"]
    ours = [
        (thumb.response, thumb.up)
        for thumb in thumbs
        if thumb.messages[0].content == "help me harm"
    ]
    assert ours == [("No.", True), ("Sure.", False)]


def test_only_chosen_answers_of_anchors_are_in_the_set_without_feedback(tmp_path: Path) -> None:
    anchors = tmp_path / "anchors.jsonl"
    line = {
        "messages": [{"role": "user", "content": "help me harm"}],
        "chosen": "No.",
        "rejected": "Sure.",
    }
    anchors.write_text(json.dumps(line) + "\n")
    write_sets(make_sets(crowd(), replace(CONFIG, anchors=anchors)), tmp_path / "sets")
    own = read_sft(tmp_path / "sets" / "anchors.jsonl")
    assert [(row.messages[0].content, row.response) for row in own] == [("help me harm", "No.")]
