"""Rows of public formats become the examples of our own rows; others are refused by field."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.errors import refused
from tests.training.toys import toy_model, user, write_lines
from training.data.chat import Chat, load_chat
from training.data.context import fit_context
from training.data.examples import (
    DataSummary,
    read_pairs,
    read_prompts,
    read_sft,
    read_thumbs,
    summarise,
)
from training.data.formats.catalogue import KINDS, PAIRS, PROMPTS, SFT, THUMBS, RowKind
from training.data.formats.detection import FileFormat
from training.data.formats.fields import ExampleError
from training.stages import dpo, kto, reward_model
from training.stages.sft import fitting_examples

DOCUMENTED = Path(__file__).parents[3] / "docs" / "training.md"
TOKENS = 512
UNPAIRED = "\ud83d"  # unpaired surrogate: JSON can spell it, UTF-8 cannot
SYSTEM = {"role": "system", "content": "be good"}
EARLIER = [*user("bird"), {"role": "assistant", "content": "cloud"}]
TALK = [SYSTEM, *EARLIER, *user("tree house")]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def turns(*texts: str) -> list[dict[str, str]]:
    """Messages of ShareGPT, the user's first."""
    return [
        {"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)
    ]


# Kind, row of a public format, our own row with the same content, and the name of the format.
SAME: dict[str, tuple[RowKind, dict[str, Any], dict[str, Any], str]] = {
    "OpenAI": (
        SFT,
        {"messages": [*TALK, *assistant("river")]},
        {"messages": TALK, "response": "river"},
        "messages that end with the assistant (OpenAI)",
    ),
    "UltraChat": (
        SFT,
        {"prompt": "tree", "prompt_id": "7", "messages": [*user("tree"), *assistant("river")]},
        {"messages": user("tree"), "response": "river"},
        "messages that end with the assistant (OpenAI)",
    ),
    "completion": (
        SFT,
        {"prompt": "tree", "completion": " river", "weight": 0.5},
        {"messages": user("tree"), "response": " river", "weight": 0.5},
        "prompt/completion (TRL)",
    ),
    "conversational completion": (
        SFT,
        {"prompt": TALK, "completion": assistant("river")},
        {"messages": TALK, "response": "river"},
        "conversational prompt/completion (TRL)",
    ),
    "completion of several messages": (
        SFT,
        {"prompt": user("bird"), "completion": [*EARLIER[1:], *user("tree"), *assistant("river")]},
        {"messages": [*EARLIER, *user("tree")], "response": "river"},
        "conversational prompt/completion (TRL)",
    ),
    "Alpaca": (
        SFT,
        {"instruction": "good", "input": "tree", "output": "river", "text": "Below is good tree"},
        {"messages": user("good\n\ntree"), "response": "river"},
        "instruction/input/output (Alpaca)",
    ),
    "Alpaca without input": (
        SFT,
        {"instruction": "good", "input": "", "output": "river", "system": "be good"},
        {"messages": [SYSTEM, *user("good")], "response": "river"},
        "instruction/input/output (Alpaca)",
    ),
    "Dolly": (
        SFT,
        {"instruction": "good", "context": "tree", "response": "river", "category": "closed_qa"},
        {"messages": user("good\n\ntree"), "response": "river"},
        "columns instruction/context/response (Dolly)",
    ),
    "FLAN": (
        SFT,
        {"inputs": "tree", "targets": "river", "task_source": "Flan2021", "template_idx": 3},
        {"messages": user("tree"), "response": "river"},
        "columns inputs/targets (FLAN)",
    ),
    "prompt and response": (
        SFT,
        {"prompt": "tree", "response": "river"},
        {"messages": user("tree"), "response": "river"},
        "columns prompt/response",
    ),
    "question and answer": (
        SFT,
        {"question": "tree", "context": "bird", "answer": "river"},
        {"messages": user("tree\n\nbird"), "response": "river"},
        "columns question/answer",
    ),
    "ShareGPT": (
        SFT,
        {"id": "a_0", "conversations": turns("bird", "cloud", "tree", "river")},
        {"messages": [*EARLIER, *user("tree")], "response": "river"},
        "conversations (ShareGPT)",
    ),
    "ShareGPT with a system prompt": (
        SFT,
        {"system": "be good", "conversations": turns("tree", "river"), "model": "x"},
        {"messages": [SYSTEM, *user("tree")], "response": "river"},
        "conversations (ShareGPT)",
    ),
    "pair": (
        PAIRS,
        {"prompt": "tree", "chosen": "river", "rejected": "stone", "margin": 0.5},
        {"messages": user("tree"), "chosen": "river", "rejected": "stone", "margin": 0.5},
        "prompt/chosen/rejected (TRL)",
    ),
    "conversational pair": (
        PAIRS,
        {"prompt": TALK, "chosen": assistant("river"), "rejected": assistant("stone")},
        {"messages": TALK, "chosen": "river", "rejected": "stone"},
        "conversational prompt/chosen/rejected (TRL)",
    ),
    "implicit prompt": (
        PAIRS,
        {"chosen": [*TALK, *assistant("river")], "rejected": [*TALK, *assistant("stone")]},
        {"messages": TALK, "chosen": "river", "rejected": "stone"},
        "conversational chosen/rejected with an implicit prompt (TRL)",
    ),
    "UltraFeedback": (
        PAIRS,
        {
            "prompt": "tree",
            "prompt_id": "7",
            "chosen": [*user("tree"), *assistant("river")],
            "rejected": [*user("tree"), *assistant("stone")],
            "messages": [*user("tree"), *assistant("river")],
            "score_chosen": 8.5,
            "score_rejected": 4.0,
        },
        {"messages": user("tree"), "chosen": "river", "rejected": "stone", "prompt_id": "7"},
        "conversational prompt/chosen/rejected (TRL)",
    ),
    "prompt repeated by the completions": (
        PAIRS,
        {
            "prompt": user("tree"),
            "chosen": [*user("tree"), *assistant("river")],
            "rejected": [*user("tree"), *assistant("stone")],
        },
        {"messages": user("tree"), "chosen": "river", "rejected": "stone"},
        "conversational prompt/chosen/rejected (TRL)",
    ),
    "label": (
        THUMBS,
        {"prompt": "tree", "completion": "river", "label": False},
        {"messages": user("tree"), "response": "river", "thumb": "down"},
        "prompt/completion/label (TRL)",
    ),
    "conversational label": (
        THUMBS,
        {"prompt": TALK, "completion": assistant("river"), "label": True},
        {"messages": TALK, "response": "river", "thumb": "up"},
        "conversational prompt/completion/label (TRL)",
    ),
    "prompt": (
        PROMPTS,
        {"prompt": "tree", "task": "t"},
        {"messages": user("tree"), "task": "t"},
        "prompt (TRL)",
    ),
    "conversational prompt": (
        PROMPTS,
        {"prompt": TALK},
        {"messages": TALK},
        "conversational prompt (TRL)",
    ),
}


def tokenised_sft(path: Path, chat: Chat) -> object:
    return fitting_examples(read_sft(path), chat, TOKENS)


def tokenised_pairs(path: Path, chat: Chat) -> object:
    return [
        (row.prompt_id, stage.tokenise(row, chat, TOKENS))
        for stage in (reward_model, dpo)
        for row in read_pairs(path)
    ]


def tokenised_thumbs(path: Path, chat: Chat) -> object:
    return [(row.prompt_id, kto.tokenise(row, chat, TOKENS)) for row in read_thumbs(path)]


def tokenised_prompts(path: Path, chat: Chat) -> object:
    return [(row.task, fit_context(chat, row.messages, TOKENS)) for row in read_prompts(path)]


TOKENISED: dict[tuple[str, ...], Callable[[Path, Chat], object]] = {
    SFT.readers: tokenised_sft,
    PAIRS.readers: tokenised_pairs,
    THUMBS.readers: tokenised_thumbs,
    PROMPTS.readers: tokenised_prompts,
}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return load_chat(toy_model(tmp_path_factory.mktemp("model") / "toy"))


@pytest.mark.parametrize("case", SAME)
def test_row_of_a_public_format_is_tokenised_as_our_own(
    case: str, chat: Chat, tmp_path: Path
) -> None:
    kind, row, own, name = SAME[case]
    tokenised = TOKENISED[kind.readers]
    theirs = write_lines(tmp_path / "theirs.jsonl", [row, row])
    ours = write_lines(tmp_path / "own.jsonl", [own, own])
    assert tokenised(theirs, chat) == tokenised(ours, chat)
    summary = summarise(theirs, kind)
    assert (summary.rows, summary.format) == (2, name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.readers[0])
def test_every_format_is_tested_and_documented(kind: RowKind) -> None:
    own, *others = (one.name for one in kind.formats)
    assert set(others) == {name for of_kind, _, _, name in SAME.values() if of_kind is kind}
    documented = DOCUMENTED.read_text()
    assert [name for name in (own, *others) if name not in documented] == []


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_all_kinds_of_files_have_the_same_rows(name: str, chat: Chat, tmp_path: Path) -> None:
    pair = {"prompt": TALK, "chosen": assistant("river"), "rejected": assistant("stone")}
    # Tables write absent fields as null.
    rows = [pair | {"margin": 0.5}, pair | {"margin": None}]
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    plain = write_lines(tmp_path / "plain.jsonl", [rows[0], pair])
    assert tokenised_pairs(path, chat) == tokenised_pairs(plain, chat)


# Without the time, which would change the test's name between two workers.
COMPRESSED = gzip.compress(b'{"prompt": "a"}\n' * 300, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "row", "reason"),
    [
        ("rows.jsonl.gz", COMPRESSED[:-9], ":301", "MALFORMED"),
        ("rows.gz", b"text", ":1", "MALFORMED"),
        ("rows.parquet", b"text", ":1", "MALFORMED"),
        ("rows.json", b'[{"prompt": "a"}', ":1", "MALFORMED"),
        ("rows.json", b'[{"prompt": "a"}, 7]', ":2", "WRONG_TYPE"),
        ("rows.json", b"[" * 100_000, ":1", "MALFORMED"),
        ("rows.json", b"[]", "", "EMPTY"),
        ("rows.jsonl", b"", "", "EMPTY"),
    ],
)
def test_damaged_file_is_refused(
    name: str, content: bytes, row: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(ExampleError, field=f"{name}{row}", reason=reason):
        read_prompts(tmp_path / name)


def test_file_of_two_formats_is_refused_with_the_row(tmp_path: Path) -> None:
    standard, talk = SAME["completion"][1], SAME["conversational completion"][1]
    path = write_lines(tmp_path / "rows.jsonl", [standard, standard, talk])
    with refused(
        ExampleError, field="rows.jsonl:3", reason="MISMATCH", limit="prompt/completion (TRL)"
    ):
        read_sft(path)


@pytest.mark.parametrize(
    ("kind", "row", "missing", "named"),
    [
        (SFT, {"instruction": "a", "input": "b"}, "'output'", "Alpaca"),
        (SFT, {"prompt": "a"}, "'completion'", "TRL"),
        (SFT, {"messages": user("a")}, "'response'", "messages/response"),
        (SFT, {"messages": user("a"), "respones": "b"}, "'response'", "did you mean response"),
        (SFT, {"prompt": "a", "chosen": "b", "rejected": "c"}, "'completion'", "dpo"),
        (SFT, {"prompt": user("a")}, "'completion'", "looks like conversational prompt/completion"),
        (SFT, {"instruction": "a", "context": "b"}, "'response'", "Dolly"),
        (SFT, {"prompt": "a", "weight": 2, "target": "b"}, "'completion'", "TRL"),
        (SFT, {"text": "a"}, "'messages' and 'response'", "ShareGPT"),
        (PAIRS, {"prompt": "a"}, "'chosen' and 'rejected'", "prompt/chosen/rejected"),
        (PAIRS, {"chosen": "a", "rejected": "b"}, "'prompt'", "prompt/chosen/rejected"),
        (THUMBS, {"prompt": "a", "completion": "b"}, "'label'", "prompt/completion/label"),
        (THUMBS, {"response": "b", "prompt_id": "1"}, "'messages' and 'thumb'", "thumb"),
    ],
)
def test_all_missing_fields_are_named_with_the_nearest_format(
    kind: RowKind, row: dict[str, Any], missing: str, named: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [row])
    first = missing.split("'")[1]
    with refused(
        ExampleError, field=f"rows.jsonl:1:{first}", reason="MISSING", limit=missing
    ) as caught:
        summarise(path, kind)
    assert named in caught.value.text


def test_the_nearest_format_does_not_depend_on_the_names_of_formats() -> None:
    known = sorted({field for one in SFT.formats for field in SFT.known(one)})
    names = [f"{number:02}" for number in range(len(SFT.formats))]
    kinds = [
        replace(
            SFT,
            formats=tuple(
                replace(one, name=name) for one, name in zip(SFT.formats, order, strict=True)
            ),
        )
        for order in (names, names[::-1])
    ]
    missing = 0
    for row in (dict.fromkeys(fields, "a") for fields in combinations(known, 2)):
        limits = {limit_of(row, kind) for kind in kinds}
        assert len(limits) == 1, row
        missing += limits != {""}
    assert missing > 100


def limit_of(row: dict[str, Any], kind: RowKind) -> str:
    """Return the missing fields that the error of a row names, or ""."""
    try:
        FileFormat(kind).convert(1, row)
    except ExampleError as error:
        return error.limit
    return ""


@pytest.mark.parametrize(
    ("case", "field", "value", "reason"),
    [
        ("completion", "prompt", "", "EMPTY"),
        ("completion", "prompt", 5, "WRONG_TYPE"),
        ("completion", "completion", "", "EMPTY"),
        ("completion", "completion", f"a {UNPAIRED}", "NOT_UTF8"),
        ("completion", "weight", -1, "OUT_OF_RANGE"),
        ("Alpaca", "input", 5, "WRONG_TYPE"),
        ("Alpaca", "output", "", "EMPTY"),
        ("Alpaca without input", "system", 5, "WRONG_TYPE"),
        ("ShareGPT", "conversations", turns("a"), "CONFLICT"),
        ("ShareGPT", "conversations", turns("a", ""), "EMPTY"),
        ("ShareGPT", "conversations", turns("a", "b")[1:], "EMPTY"),
        ("ShareGPT", "conversations", turns("", "b"), "EMPTY"),
        ("ShareGPT", "conversations", "a", "WRONG_TYPE"),
        ("ShareGPT", "conversations", [{"from": "human"}], "MISSING"),
        ("ShareGPT", "conversations", [{"from": "robot", "value": "a"}], "UNKNOWN"),
        ("ShareGPT", "conversations", [{"from": "observation", "value": "a"}], "UNSUPPORTED"),
        ("ShareGPT", "conversations", [{"role": "user", "content": "a"}], "MALFORMED"),
        ("OpenAI", "messages", [{"role": "tool", "content": "a"}, *assistant("b")], "UNSUPPORTED"),
        (
            "OpenAI",
            "messages",
            [*user("a"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            "UNSUPPORTED",
        ),
        (
            "OpenAI",
            "messages",
            [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *assistant("b")],
            "WRONG_TYPE",
        ),
        ("OpenAI", "messages", [*EARLIER, *assistant("b")], "CONFLICT"),
        ("pair", "chosen", 5, "WRONG_TYPE"),
        ("conversational pair", "rejected", user("a"), "CONFLICT"),
        ("implicit prompt", "rejected", [*user("other"), *assistant("b")], "MISMATCH"),
        ("UltraFeedback", "prompt", "other", "MISMATCH"),
        ("label", "label", 1, "WRONG_TYPE"),
        ("conversational prompt", "prompt", EARLIER, "CONFLICT"),
        ("conversational prompt", "prompt", user(""), "EMPTY"),
        ("conversational prompt", "prompt", [], "EMPTY"),
    ],
)
def test_invalid_value_is_refused_with_row_and_field(
    case: str, field: str, value: object, reason: str, tmp_path: Path
) -> None:
    kind, row, _, _ = SAME[case]
    path = write_lines(tmp_path / "rows.jsonl", [row, row | {field: value}])
    with refused(ExampleError, field=f"rows.jsonl:2:{field}", reason=reason):
        summarise(path, kind)


def test_unknown_fields_are_refused_with_their_number_of_rows(tmp_path: Path) -> None:
    row = {"messages": user("a"), "response": "b"}
    rows = [row, row | {"weigth": 5}, row | {"weigth": 5, "note": "x"}]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with refused(ExampleError, field="rows.jsonl:2:weigth", reason="UNKNOWN") as caught:
        read_sft(path)
    for named in ("weigth in 2 of 3 rows", "did you mean weight?", "note in 1 of 3 rows"):
        assert named in caught.value.text
    assert "weight" in caught.value.limit
    assert len(read_sft(path, allow_extra_fields=True)) == 3
    summary = summarise(path, SFT, allow_extra_fields=True)
    assert summary.ignored == {"weigth": 2, "note": 1}
    assert "note" in summary.text()


def test_unknown_field_of_a_message_is_refused(tmp_path: Path) -> None:
    messages = [{**user("a")[0], "weight": 1}, *assistant("b")]
    path = write_lines(tmp_path / "rows.jsonl", [{"messages": messages}])
    with refused(ExampleError, field="rows.jsonl:1:messages.weight", reason="UNKNOWN"):
        read_sft(path)
    assert read_sft(path, allow_extra_fields=True)[0].response == "b"


@pytest.mark.parametrize("case", SAME)
def test_fields_of_the_origin_of_a_row_are_known(case: str, tmp_path: Path) -> None:
    kind, row, own, _ = SAME[case]
    origin = {"id": "1", "prompt_id": "2", "source": "x", "licence": "CC0-1.0"}
    for one in (row, own):
        path = write_lines(tmp_path / "rows.jsonl", [one | origin])
        assert summarise(path, kind).ignored == {}


def test_equal_prompts_share_the_default_prompt_id(tmp_path: Path) -> None:
    one = {"chosen": "b", "rejected": "c"}
    rows = [one | {"prompt": "a"}, one | {"prompt": "a", "chosen": "d"}, one | {"prompt": "e"}]
    first, same, other = read_pairs(write_lines(tmp_path / "rows.jsonl", rows))
    assert first.prompt_id == same.prompt_id != other.prompt_id
    own = [{"messages": user("a"), "response": "b", "thumb": "up"}]
    [thumb] = read_thumbs(write_lines(tmp_path / "own.jsonl", own))
    assert thumb.prompt_id == first.prompt_id


def test_earlier_answers_of_conversations_are_counted(tmp_path: Path) -> None:
    rows = [SAME["ShareGPT"][1], {"conversations": turns("a", "b")}]
    summary = summarise(write_lines(tmp_path / "rows.jsonl", rows), SFT)
    assert summary.earlier_answers == 1
    assert "context" in summary.text()


def test_first_prompt_without_a_task_is_named(tmp_path: Path) -> None:
    with_task, without = SAME["prompt"][1], {"prompt": "tree"}
    rows = [with_task, without, with_task, without]
    assert summarise(write_lines(tmp_path / "rows.jsonl", rows), PROMPTS).first_without_task == 2
    assert summarise(write_lines(tmp_path / "all.jsonl", [with_task]), PROMPTS) == DataSummary(
        1, "prompt (TRL)"
    )
