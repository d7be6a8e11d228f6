"""Invalid lines of data files are refused with file, line and field."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.toys import user, write_lines
from training.data.examples import (
    ExampleError,
    read_pairs,
    read_prompts,
    read_sft,
    read_texts,
    read_thumbs,
)

UNPAIRED = "\ud83d"  # unpaired surrogate: JSON can spell it, UTF-8 cannot
ROWS: dict[Callable[[Path], Any], dict[str, Any]] = {
    read_sft: {"messages": user("a"), "response": "b"},
    read_pairs: {"messages": user("a"), "chosen": "b", "rejected": "c", "prompt_id": "d"},
    read_thumbs: {"messages": user("a"), "response": "b", "thumb": "up", "prompt_id": "d"},
    read_prompts: {"messages": user("a"), "task": "t"},
    read_texts: {"text": "a"},
}


@pytest.mark.parametrize("read", ROWS, ids=lambda read: read.__name__)
def test_unpaired_surrogate_is_refused_with_its_field(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    row = ROWS[read]
    assert len(read(write_lines(tmp_path / "rows.jsonl", [row, row]))) == 2
    for field in (name for name in row if name != "thumb"):
        broken = user(f"a {UNPAIRED}") if field == "messages" else f"a {UNPAIRED}"
        path = write_lines(tmp_path / "rows.jsonl", [row, row | {field: broken}])
        with refused(ExampleError, field=f"rows.jsonl:2:{field}", reason="NOT_UTF8") as caught:
            read(path)
        assert "U+D83D" in caught.value.text


@pytest.mark.parametrize("read", ROWS, ids=lambda read: read.__name__)
def test_invalid_utf_8_is_refused_with_its_line(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[read]] * 2)
    path.write_bytes(path.read_bytes() + '{"text": "caf\xe9"}\n'.encode("latin-1"))
    with refused(ExampleError, field="rows.jsonl:3", reason="NOT_UTF8") as caught:
        read(path)
    assert re.search(r"\b14\b", caught.value.text)  # position of the invalid byte


def test_emoji_as_two_json_escapes_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "\\ud83d\\ude00"}\r\n')
    assert read_texts(tmp_path / "texts.jsonl") == ["\U0001f600"]


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ("", "rows.jsonl:2", "EMPTY"),
        ("question,answer", "rows.jsonl:2", "MALFORMED"),
        ("[]", "rows.jsonl:2", "WRONG_TYPE"),
        ('{"prompt": "a", "completion": "b"}', "rows.jsonl:2", "MISMATCH"),
        ('{"messages": [], "response": "b"}', "rows.jsonl:2:messages", "EMPTY"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "rows.jsonl:2:response", "MISSING"),
        (
            '{"messages": [{"role": "user", "content": "a"}], "response": ""}',
            "rows.jsonl:2:response",
            "EMPTY",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "assistant", "content": "b"}]}',
            "rows.jsonl:2",
            "MISMATCH",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "assistant", "content": "b"}], "response": "b"}',
            "rows.jsonl:2:messages",
            "CONFLICT",
        ),
    ],
)
def test_invalid_row_is_refused_with_line_and_field(
    line: str, field: str, reason: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[read_sft]])
    path.write_text(f"{path.read_text()}{line}\n")
    with refused(ExampleError, field=field, reason=reason):
        read_sft(path)


@pytest.mark.parametrize(("wrong", "more"), [(1, []), (2, [1]), (9, [8])])
def test_first_invalid_line_is_named_and_the_others_are_counted(
    wrong: int, more: list[int], tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[read_sft], *[{"response": "b"}] * wrong])
    with refused(ExampleError, field="rows.jsonl:2:messages", reason="MISSING") as caught:
        read_sft(path)
    assert [int(number) for number in re.findall(r"\d+", caught.value.text)] == [2, *more]
