"""Files as texts: nothing lost, nothing added, and what is wrong is named by file and place."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.tokenization.reading import BLOCK_BYTES, TextError, TextFiles, check_unicode, is_held_out

SEED = 3


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
        "\n" * (BLOCK_BYTES + 1),
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


@given(st.text(), st.floats(0.01, 0.5))
def test_a_larger_share_holds_what_a_smaller_one_held(text: str, share: float) -> None:
    assert not is_held_out(text, share, SEED) or is_held_out(text, 0.5, SEED)


def test_the_share_is_about_what_was_asked() -> None:
    held = sum(is_held_out(f"text {number}", 0.1, SEED) for number in range(5000))
    assert 400 < held < 600
    assert [is_held_out(f"text {n}", 0.5, 1) for n in range(99)] != [
        is_held_out(f"text {n}", 0.5, 2) for n in range(99)
    ]
