"""Files as texts: nothing lost, nothing added, and what is wrong is named by file and place."""

import json
from pathlib import Path

import pytest

from training.data.corpus import TextError, check_unicode
from training.tokenization.reading import BLOCK_BYTES, TextFiles


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "one line",
        "a\r\nb\n\n\tc \n",
        "\ufeffmark",
        "日本語\n" * 3000,  # 3 bytes a letter: blocks end inside of one
        "é" * BLOCK_BYTES * 3,  # no line at all
        "x" + "😀" * BLOCK_BYTES,
        "\n" * (BLOCK_BYTES + 1) + "x",
    ],
)
def test_the_blocks_of_a_file_are_the_file(tmp_path: Path, text: str) -> None:
    files = TextFiles([written(tmp_path / "a.txt", text)])
    blocks = list(files)
    assert "".join(blocks) == text
    assert all(blocks)
    assert max(len(block.encode()) for block in blocks) <= 2 * BLOCK_BYTES + 3
    assert files.read_bytes == files.total_bytes == len(text.encode())


def test_blocks_end_with_a_line_where_there_are_lines(tmp_path: Path) -> None:
    blocks = list(TextFiles([written(tmp_path / "a.txt", "some words of a line\n" * 2000)]))
    assert len(blocks) > 5
    assert all(block.endswith("line\n") for block in blocks)


def test_files_are_read_in_their_order_and_again(tmp_path: Path) -> None:
    rows = written(tmp_path / "b.jsonl", '{"text": "two\\n", "more": 1}\n{"text": "three"}')
    files = TextFiles([written(tmp_path / "a.txt", "one"), rows])
    assert list(files) == list(files) == ["one", "two\n", "three"]


@pytest.mark.parametrize("place", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_what_is_not_utf8_is_named_by_its_byte(tmp_path: Path, place: int) -> None:
    content = b"x" * place + b"\xff" + b"y" * BLOCK_BYTES
    with pytest.raises(TextError, match=f"^texts: a.txt is not UTF-8 at byte {place}$"):
        list(TextFiles([written(tmp_path / "a.txt", content)]))


@pytest.mark.parametrize("before", [b"", b"x" * (BLOCK_BYTES - 1), b"x" * (2 * BLOCK_BYTES - 1)])
def test_a_character_that_the_file_breaks_off_is_not_lost_in_silence(tmp_path: Path, before: bytes) -> None:
    with pytest.raises(TextError, match=f"a.txt is not UTF-8 at byte {len(before)}$"):
        list(TextFiles([written(tmp_path / "a.txt", before + b"\xf0\x9f")]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "text: must be text and not empty"),
        (b'{"text": ""}', "text: must be text and not empty"),
        (b'{"text": 1}', "text: must be text and not empty"),
        (b'{"words": "x"}', "text: must be text and not empty"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10 of the line"),
        (rb'{"text": "ab\ud83d"}', "text: half a surrogate pair at character 2"),
    ],
)
def test_a_line_without_text_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    file = written(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(TextError, match=f"^a.jsonl line 2: {reason}"):
        list(TextFiles([file]))


def test_a_whole_surrogate_pair_in_json_is_a_character(tmp_path: Path) -> None:
    assert list(TextFiles([written(tmp_path / "a.jsonl", json.dumps({"text": "😀"}))])) == ["😀"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.md", "x", "a.md is not one of .txt, .jsonl"),
        ("a.txt", "", "a.txt is empty"),
        ("b.txt", None, "b.txt is missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_before_any_is(
    tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    if content is not None:
        written(tmp_path / name, content)
    with pytest.raises(TextError, match=f"^texts: {reason}$"):
        TextFiles([tmp_path / name])


def test_unicode_is_checked_by_name() -> None:
    assert check_unicode("fine 😀", "text") == "fine 😀"
    with pytest.raises(TextError, match=r"^text: half a surrogate pair at character 1"):
        check_unicode("a\udcff", "text")
