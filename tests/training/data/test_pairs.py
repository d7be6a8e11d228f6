"""Pairs, margins, label noise and its ceiling, and the cuts that keep what judges away from what
learns.
"""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.data.chat import Message
from training.data.examples import ExampleError, read_thumbs
from training.data.judgements import Judgement
from training.data.pairs import (
    LabelNoise,
    estimate_noise,
    group,
    make_pairs,
    noise_ceiling,
    prompt_key,
)
from training.data.served import Served
from training.data.sets import SetsConfig, cut, is_held_out, write_sets


def said(
    asked: str,
    answer: str,
    up: bool | None = None,
    correction: str | None = None,
    who: str = "ann",
    name: str = "",
) -> Judgement:
    context = (Message("user", asked),)
    return Judgement(
        name or f"{asked}/{answer}/{who}", who, "nano-0", "stable", context, answer, up, correction
    )


def pairs_of(*judgements: Judgement, most: int = 100) -> list[tuple[str, str]]:
    made, _ = make_pairs(group(judgements), LabelNoise(None, 0, 0), most, 0)
    return sorted((pair.chosen, pair.rejected) for pair in made)


def test_a_liked_answer_is_paired_with_a_disliked_one_to_the_same_question() -> None:
    found = pairs_of(said("hi", "hello", True), said("hi", "what", False), said("bye", "no", False))
    assert found == [("hello", "what")]


def test_case_and_spacing_of_the_question_do_not_matter_but_its_history_does() -> None:
    assert prompt_key([Message("user", "Hi  there ")]) == prompt_key([Message("user", "hi there")])
    assert prompt_key([Message("user", "hi")]) != prompt_key(
        [Message("system", "x"), Message("user", "hi")]
    )


def test_a_correction_is_preferred_to_what_it_corrects() -> None:
    assert pairs_of(said("hi", "hello", False, "good day")) == [("good day", "hello")]
    assert pairs_of(said("hi", "hello", None, "hello ")) == []


def test_the_majority_decides_and_a_tie_says_nothing() -> None:
    votes = [said("hi", "hello", True, who=w) for w in "ab"] + [said("hi", "hello", False, who="c")]
    assert pairs_of(*votes, said("hi", "what", False)) == [("hello", "what")]
    assert pairs_of(votes[0], votes[2], said("hi", "what", False)) == []


def test_more_votes_make_a_larger_margin() -> None:
    one = group([said("hi", "yes", True), said("hi", "no", False)])
    many = group([said("hi", a, a == "yes", who=w) for a in ("yes", "no") for w in "abcde"])
    margins = [
        make_pairs(questions, LabelNoise(None, 0, 0), 9, 0)[0][0].margin
        for questions in (one, many)
    ]
    assert margins == pytest.approx([2 / 3 - 1 / 3, 6 / 7 - 1 / 7])


def test_a_popular_question_gives_no_more_pairs_than_its_cap() -> None:
    judgements = [said("hi", f"answer {n}", n % 2 == 0) for n in range(20)]
    questions = group(judgements)
    made, dropped = make_pairs(questions, LabelNoise(None, 0, 0), 7, 0)
    assert len(made) == 7
    assert dropped == {"prompt_without_opposite": 0, "over_cap_of_prompt": 93}


def rated_world(
    flipped: float, seed: int, count: int = 400, good_shares: tuple[float, ...] = (0.5,)
) -> tuple[list[Judgement], dict[str, bool]]:
    """Answers of which a share is truly good, question by question in turn; each is rated by one to
    four users who err.
    """
    rng = random.Random(seed)
    truth = {
        f"question {n % 60} answer {n}": rng.random() < good_shares[n % 60 % len(good_shares)]
        for n in range(count)
    }
    judgements = [
        said(
            f"question {n % 60}",
            answer,
            good != (rng.random() < flipped),
            who=f"user {rng.randrange(10**9)}",
        )
        for n, (answer, good) in enumerate(truth.items())
        for _ in range(rng.randint(1, 4))
    ]
    return judgements, truth


@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.25])
def test_the_noise_is_found_from_thumbs_that_contradict_each_other(flipped: float) -> None:
    noise = estimate_noise(group(rated_world(flipped, seed=3, count=1500)[0]))
    assert noise.flipped == pytest.approx(flipped, abs=0.03)


def test_thumbs_by_chance_have_noise_near_a_half() -> None:
    noise = estimate_noise(group(rated_world(0.5, seed=4, count=1500)[0]))
    assert noise.flipped is not None
    assert noise.flipped > 0.4


def test_nothing_is_said_about_noise_where_nothing_was_rated_twice() -> None:
    noise = estimate_noise(group([said("hi", f"a{n}", n % 3 == 0) for n in range(50)]))
    assert noise.flipped is None


@pytest.mark.parametrize(("good_shares", "off"), [((0.5,), 0.02), ((0.02, 0.5, 0.98), 0.03)])
@pytest.mark.parametrize("flipped", [0.05, 0.2])
def test_the_ceiling_is_what_the_truth_itself_scores(
    flipped: float, good_shares: tuple[float, ...], off: float
) -> None:
    judgements, truth = rated_world(flipped, 5, 3000, good_shares)
    questions = group(judgements)
    made, _ = make_pairs(questions, estimate_noise(questions), 10**6, 0)
    ceiling = noise_ceiling(made)
    scores = [0.5 if truth[p.chosen] == truth[p.rejected] else float(truth[p.chosen]) for p in made]
    assert ceiling == pytest.approx(sum(scores) / len(scores), abs=off)


CONFIG = SetsConfig()


def crowd(users: int = 20, questions: int = 80) -> list[Judgement]:
    rng = random.Random(7)
    return [
        said(
            f"question {q}",
            f"answer {rng.randrange(4)}",
            rng.random() < 0.5,
            who=f"user {u}",
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


def test_no_question_both_teaches_and_judges() -> None:
    sets = cut(crowd(), CONFIG)
    held = questions_of(sets.held_out_prompts)
    taught = questions_of(sets.sft) | questions_of(sets.thumbs) | questions_of(sets.prompts)
    taught |= {pair.context[-1].content for pair in (*sets.pairs, *sets.judge_pairs)}
    assert held
    assert held == {pair.context[-1].content for pair in sets.held_out_pairs} | (held - taught)
    assert not held & taught


def test_a_question_stays_held_out_whatever_else_is_asked() -> None:
    few, many = cut(crowd(questions=40), CONFIG), cut(crowd(questions=80), CONFIG)
    both = questions_of(few.held_out_prompts) | questions_of(few.prompts)
    assert questions_of(few.held_out_prompts) == questions_of(many.held_out_prompts) & both


def test_judges_are_other_users_than_teachers() -> None:
    rng = random.Random(8)
    judgements = [
        said(
            f"question {q}",
            f"answer {q % 3} of user {u}",
            rng.random() < 0.5,
            who=f"user {u}",
            name=f"{q} {u}",
        )
        for u in range(20)
        for q in range(30)
    ]
    sets = cut(judgements, CONFIG)
    teachers = {
        text.split("of ")[1] for pair in sets.pairs for text in (pair.chosen, pair.rejected)
    }
    jury = {
        text.split("of ")[1] for pair in sets.judge_pairs for text in (pair.chosen, pair.rejected)
    }
    assert sets.judges_are == "users"
    assert not teachers & jury
    assert len(jury) == 8  # 0.4 of 20
    for learned in (sets.sft, sets.thumbs):
        assert {str(row["response"]).split("of ")[1] for row in learned} <= teachers


def test_with_few_users_answers_are_divided_instead() -> None:
    sets = cut(crowd(users=4, questions=30), CONFIG)
    assert sets.judges_are == "answers"
    assert sets.pairs
    assert sets.judge_pairs


def test_too_little_is_said_in_numbers() -> None:
    sets = cut(crowd(users=2, questions=40), SetsConfig(min_thumbs=200))
    (thumbs,) = (line for line in sets.missing(SetsConfig(min_thumbs=200), 60) if "thumbs" in line)
    assert re.findall(r"\d+", thumbs) == ["60", "200"]
    assert cut(crowd(), CONFIG).missing(SetsConfig(min_pairs=1, min_held_out_pairs=1), 600) == []


def test_the_cut_is_a_function_of_the_judgements() -> None:
    assert cut(crowd(), CONFIG) == cut(crowd(), CONFIG)


def test_liked_answers_and_corrections_are_learned_disliked_ones_are_not() -> None:
    train = next(
        q
        for q in (f"q{n}" for n in range(50))
        if not is_held_out(prompt_key([Message("user", q)]), 0.2)
    )
    people = [f"user {n}" for n in range(8)]
    judgements = [said(train, "good", True, who=w, name=f"g{w}") for w in people]
    judgements += [said(train, "bad", False, "better", who=w, name=f"b{w}") for w in people]
    rows = {(row["response"], row["weight"]) for row in cut(judgements, CONFIG).sft}
    assert rows == {("good", 1.0), ("better", CONFIG.correction_weight)}


def test_an_answer_has_one_thumb_that_of_its_majority_and_a_tie_has_none() -> None:
    train = next(
        q
        for q in (f"q{n}" for n in range(50))
        if not is_held_out(prompt_key([Message("user", q)]), 0.2)
    )
    people = [f"user {n}" for n in range(8)]
    judgements = [said(train, "good", True, who=w, name=f"g{w}") for w in people]
    judgements += [said(train, "bad", w == "user 0", who=w, name=f"b{w}") for w in people]
    judgements += [
        said(train, "so", up, who=w, name=f"{w}{up}") for w in people for up in (True, False)
    ]
    thumbs = cut(judgements, CONFIG).thumbs
    assert sorted((row["response"], row["thumb"]) for row in thumbs) == [
        ("bad", "down"),
        ("good", "up"),
    ]
    assert {row["prompt_id"] for row in thumbs} == {prompt_key([Message("user", train)])}


def test_a_thumb_takes_along_what_was_sampled_for_an_answer_that_was_rated_so(
    tmp_path: Path,
) -> None:
    train = next(
        q
        for q in (f"q{n}" for n in range(50))
        if not is_held_out(prompt_key([Message("user", q)]), 0.2)
    )

    def sample(version: str) -> Served:
        return Served(version, (7, 1), (-0.5, -0.25), 3, 0.9, 0.95)

    judgements = [said(train, "bad", False, who=f"user {n}", name=f"b{n}") for n in range(8)]
    judgements += [
        replace(
            said(train, "good", False, who="user 9", name="slip"), served=sample("not this one")
        ),
        said(train, "good", True, who="user 7", name="without"),
        replace(said(train, " good ", True, who="user 8", name="with"), served=sample("nano-0")),
        replace(said(train, "good", True, who="user 6", name="later"), served=sample("nano-1")),
    ]
    sets = cut(judgements, replace(CONFIG, judge_fraction=0.01))
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
        (7, "served", "WRONG_TYPE", ""),
    ],
)
def test_a_sample_that_is_none_is_an_error_that_names_line_and_field(
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


def test_anchors_are_thumbs_too_and_the_file_is_what_kto_reads(tmp_path: Path) -> None:
    anchors = tmp_path / "anchors.jsonl"
    line = {
        "messages": [{"role": "user", "content": "help me harm"}],
        "chosen": "No.",
        "rejected": "Sure.",
    }
    anchors.write_text(json.dumps(line) + "\n")
    sets = cut(crowd(), replace(CONFIG, anchors=anchors))
    write_sets(sets, tmp_path / "sets")
    thumbs = read_thumbs(tmp_path / "sets" / "thumbs.jsonl")
    assert len(thumbs) == len(sets.thumbs) == sets.counts()["thumb_examples"]
    ours = [
        (thumb.response, thumb.up)
        for thumb in thumbs
        if thumb.messages[0].content == "help me harm"
    ]
    assert ours == [("No.", True), ("Sure.", False)]
