"""`thumbwheel data chat`: columns of published instruction sets, read back by `train sft`."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.corpus.__main__ import main
from training.data.chat import Message
from training.data.examples import read_sft

ROWS = {
    "Alpaca": (
        {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"},
        "Translate.\n\nGuten Tag",
    ),
    "Alpaca without input": (
        {"instruction": "Name a colour.", "input": "", "output": "Red"},
        "Name a colour.",
    ),
    "Dolly": (
        {"instruction": "When?", "context": "In 1998.", "response": "1998", "category": "qa"},
        "When?\n\nIn 1998.",
    ),
    "FLAN": (
        {"inputs": "2 + 2 = ?", "targets": "4", "task_source": "Flan2021", "task_name": "x"},
        "2 + 2 = ?",
    ),
    "completion": ({"prompt": "Say hello.", "completion": " Hello "}, "Say hello."),
    "response": ({"prompt": " Say hello.\n", "response": "Hello"}, "Say hello."),
    "answer": ({"question": "2 + 2?", "answer": "4", "level": 1}, "2 + 2?"),
}


def convert(folder: Path, *arguments: str) -> tuple[int, Path]:
    out = folder / "out" / "chat.jsonl"
    return main(["chat", *arguments, "--out", str(out)]), out


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("ending", ["jsonl", "json.gz", "json", "parquet"])
def test_rows_become_examples_of_train_sft(tmp_path, name, ending):
    row, prompt = ROWS[name]
    file = tmp_path / f"data.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), file)
    elif ending == "json":
        file.write_text(json.dumps([row, row], indent=1))
    else:
        data = (json.dumps(row) + "\n").encode() * 2
        file.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    status, out = convert(tmp_path, str(file), "--licence", "CC-BY-4.0")
    assert status == 0
    examples = read_sft(out)
    assert [example.messages for example in examples] == [(Message("user", prompt),)] * 2
    answers = {str(row[key]).strip() for key in row} & {example.response for example in examples}
    assert len(answers) == 1
    line = json.loads(out.read_text().splitlines()[0])
    assert (line["source"], line["licence"]) == (file.name, "CC-BY-4.0")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [
            {"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "See you"},
        ]},
        {"conversations": [
            {"from": "system", "value": "Be short."}, {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye"},
            {"from": "gpt", "value": "See you"},
        ]},
    ],
)  # fmt: skip
def test_conversations(tmp_path, row):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row))
    _, out = convert(tmp_path, str(file))
    [example] = read_sft(out)
    assert example.response == "See you"
    assert [message.role for message in example.messages] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_rows_that_sft_would_refuse_are_counted_and_others_kept(tmp_path, capsys):
    good = ROWS["Alpaca"][0]
    rows = [
        {**good, "output": " "},
        {**good, "instruction": "", "note": 1},
        {**good, "note": 1},
        {**good, "output": 5},
        {**good, "output": "\ud800"},
        {**good, "weight": -1},
        {"body": "x"},
        {"messages": [{"role": "user", "content": "Hi"}], "response": "Hello"},
        [1],
        good,
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n{broken\n")
    status, out = convert(tmp_path, str(file))
    assert status == 0
    assert len(read_sft(out)) == 2
    first, kept, *dropped = capsys.readouterr().out.splitlines()
    assert "(Alpaca)" in first
    assert "note (2)" in first, "ignored columns are named"
    assert kept.split()[0] == "2"
    found = [(line.split()[0], re.search(r"row (\d+)", line)[1]) for line in dropped]
    assert found[0] == ("2", "11"), "the most frequent reason comes first"
    assert sorted(found[1:]) == [("1", str(row)) for row in (1, 2, 4, 5, 6, 7, 8, 9)]


@pytest.mark.parametrize("place", ["messages", "response"])
def test_white_space_is_no_text(tmp_path, place):
    texts = {"messages": "Hi", "response": "Hello"} | {place: " \n"}
    row = {"messages": [{"role": "user", "content": texts["messages"]}]}
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, "response": texts["response"]}))
    assert convert(tmp_path, str(tmp_path / "a.jsonl"))[0] == 2


def test_columns_by_option(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"q": "Why?", "doc": "Because.", "a": "So", "prompt": "x"}))
    _, out = convert(tmp_path, str(file), "--prompt", "q", "--context", "doc", "--response", "a")
    [example] = read_sft(out)
    assert (example.messages[0].content, example.response) == ("Why?\n\nBecause.", "So")


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.jsonl", "", []),
        ("a.jsonl", '{"x": 1}\n', []),
        ("a.csv", "a,b\n", []),
        ("a.jsonl", '{"prompt": "a", "response": "b"}', ["--prompt", "prompt"]),
        ("a.jsonl", '{"prompt": "a", "response": "b"}', ["--context", "prompt"]),
    ],
)
def test_unusable_input_is_an_error_and_keeps_the_last_output(tmp_path, name, content, options):
    (tmp_path / name).write_text(content)
    out = tmp_path / "out" / "chat.jsonl"
    out.parent.mkdir()
    out.write_text("before")
    status, _ = convert(tmp_path, str(tmp_path / name), *options)
    assert status == 2
    assert out.read_text() == "before"
    assert list(out.parent.iterdir()) == [out]


def test_missing_file_is_an_error(tmp_path):
    assert convert(tmp_path, str(tmp_path / "none.jsonl"))[0] == 2


def test_input_is_never_overwritten(tmp_path, capsys):
    table = tmp_path / "rows.jsonl"
    table.write_text(json.dumps(ROWS["Alpaca"][0]) + "\n")
    before = table.read_bytes()

    assert main(["chat", str(table), "--out", str(tmp_path / "." / "rows.jsonl")]) == 2

    assert "--out: " in capsys.readouterr().err
    assert table.read_bytes() == before
