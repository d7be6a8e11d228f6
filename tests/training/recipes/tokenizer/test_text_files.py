"""Files as texts: complete content, and errors with file and position."""

import json
import re
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.data.corpus import TextError, check_unicode
from training.recipes.tokenizer.text_files import BLOCK_BYTES, TextFiles


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def numbers(text: str) -> list[int]:
    """Return the whole numbers in an error message."""
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize(
    "text",
    [
        "one line",
        "a\r\nb\n\n\tc \n",
        "\ufeffmark",
        "日本語\n" * 3000,  # 3 bytes per letter: blocks end inside a letter
        "é" * BLOCK_BYTES * 3,  # no line end
        "x" + "😀" * BLOCK_BYTES,
        "\n" * (BLOCK_BYTES + 1) + "x",
    ],
)
def test_blocks_of_a_file_join_to_its_content(tmp_path: Path, text: str) -> None:
    files = TextFiles([write(tmp_path / "a.txt", text)])
    blocks = list(files)
    assert "".join(blocks) == text
    assert all(blocks)
    assert max(len(block.encode()) for block in blocks) <= 2 * BLOCK_BYTES + 3
    assert files.read_bytes == files.total_bytes == len(text.encode())


def test_blocks_end_at_line_ends(tmp_path: Path) -> None:
    blocks = list(TextFiles([write(tmp_path / "a.txt", "some words of a line\n" * 2000)]))
    assert len(blocks) > 5
    assert all(block.endswith("line\n") for block in blocks)


def test_files_are_read_in_order_and_repeatedly(tmp_path: Path) -> None:
    rows = write(tmp_path / "b.jsonl", '{"text": "two\\n", "more": 1}\n{"text": "three"}')
    files = TextFiles([write(tmp_path / "a.txt", "one"), rows])
    assert list(files) == list(files) == ["one", "two\n", "three"]


@pytest.mark.parametrize(
    "place", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1, 3 * BLOCK_BYTES]
)
def test_invalid_utf8_is_named_by_its_byte(tmp_path: Path, place: int) -> None:
    content = b"x" * place + b"\xff" + b"y" * BLOCK_BYTES
    with refused(TextError, field="a.txt", reason="NOT_UTF8") as caught:
        list(TextFiles([write(tmp_path / "a.txt", content)]))
    assert place in numbers(caught.value.text)


@pytest.mark.parametrize("before", [b"", b"x" * (BLOCK_BYTES - 1), b"x" * (2 * BLOCK_BYTES - 1)])
def test_truncated_character_at_the_end_of_a_file_is_refused(tmp_path: Path, before: bytes) -> None:
    with refused(TextError, field="a.txt", reason="NOT_UTF8") as caught:
        list(TextFiles([write(tmp_path / "a.txt", before + b"\xf0\x9f")]))
    assert len(before) in numbers(caught.value.text)


@pytest.mark.parametrize(
    ("line", "field", "reason", "places"),
    [
        (b"{", "a.jsonl:2", "MALFORMED", set()),
        (b"", "a.jsonl:2", "MALFORMED", set()),
        (b"[]", "a.jsonl:2:text", "MISSING", set()),
        (b'{"text": ""}', "a.jsonl:2:text", "EMPTY", set()),
        (b'{"text": 1}', "a.jsonl:2:text", "WRONG_TYPE", set()),
        (b'{"words": "x"}', "a.jsonl:2:text", "MISSING", set()),
        (b'{"text": "\xff"}', "a.jsonl:2", "NOT_UTF8", {10}),
        (rb'{"text": "abc\ud83d"}', "a.jsonl:2:text", "NOT_UTF8", {3}),
    ],
)
def test_line_without_text_is_named(
    tmp_path: Path, line: bytes, field: str, reason: str, places: set[int]
) -> None:
    file = write(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    with refused(TextError, field=field, reason=reason) as caught:
        list(TextFiles([file]))
    assert places <= set(numbers(caught.value.text))


def test_complete_surrogate_pair_in_json_is_one_character(tmp_path: Path) -> None:
    assert list(TextFiles([write(tmp_path / "a.jsonl", json.dumps({"text": "😀"}))])) == ["😀"]


@pytest.mark.parametrize(
    ("name", "content", "reason", "limit"),
    [
        ("a.md", "x", "UNSUPPORTED", ".txt, .jsonl, .parquet"),
        ("a.txt", "", "EMPTY", ""),
        ("b.txt", None, "MISSING", ""),
    ],
)
def test_unreadable_file_is_refused_before_reading(
    tmp_path: Path, name: str, content: str | None, reason: str, limit: str
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with refused(TextError, field=name, reason=reason, limit=limit):
        TextFiles([tmp_path / name])


def test_unpaired_surrogate_in_an_argument_is_refused() -> None:
    assert check_unicode("fine 😀", "text") == "fine 😀"
    with refused(TextError, field="text", reason="NOT_UTF8") as caught:
        check_unicode("a\udcff", "text")
    assert 1 in numbers(caught.value.text)  # position of the character
