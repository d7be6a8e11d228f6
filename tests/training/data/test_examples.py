"""Lines that no stage can read are named by file and line, whatever is wrong with their bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.toys import user, write_lines
from training.data.examples import ExampleError, read_pairs, read_prompts, read_sft, read_texts, read_thumbs

LONE = "\ud83d"  # half of a pair: JSON can spell it, UTF-8 cannot
ROWS: dict[Callable[[Path], Any], dict[str, Any]] = {
    read_sft: {"messages": user("a"), "response": "b"},
    read_pairs: {"messages": user("a"), "chosen": "b", "rejected": "c", "prompt_id": "d"},
    read_thumbs: {"messages": user("a"), "response": "b", "thumb": "up", "prompt_id": "d"},
    read_prompts: {"messages": user("a"), "task": "t"},
    read_texts: {"text": "a"},
}


@pytest.mark.parametrize("read", ROWS, ids=lambda read: read.__name__)
def test_half_a_surrogate_pair_is_refused_by_its_field(read: Callable[[Path], Any], tmp_path: Path) -> None:
    row = ROWS[read]
    assert len(read(write_lines(tmp_path / "rows.jsonl", [row, row]))) == 2
    for field in (name for name in row if name != "thumb"):
        broken = user(f"a {LONE}") if field == "messages" else f"a {LONE}"
        path = write_lines(tmp_path / "rows.jsonl", [row, row | {field: broken}])
        with pytest.raises(ExampleError, match=rf"rows\.jsonl line 2: {field}: .*U\+D83D"):
            read(path)


@pytest.mark.parametrize("read", ROWS, ids=lambda read: read.__name__)
def test_what_is_not_utf_8_is_refused_by_its_line(read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[read]] * 2)
    path.write_bytes(path.read_bytes() + '{"text": "caf\xe9"}\n'.encode("latin-1"))
    with pytest.raises(ExampleError, match=r"rows\.jsonl line 3: not UTF-8 at byte 14"):
        read(path)


def test_an_emoji_in_two_escapes_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "\\ud83d\\ude00"}\r\n')
    assert read_texts(tmp_path / "texts.jsonl") == ["\U0001f600"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "line 2: empty"),
        ("question,answer", "line 2: not JSON; one object a line"),
        ("[]", "line 2: not a JSON object; one a line"),
        ('{"prompt": "a", "completion": "b"}', "line 2: messages: missing"),
        ('{"messages": [], "response": "b"}', "line 2: messages: must be a list with at least one message"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 2: response: missing"),
        (
            '{"messages": [{"role": "user", "content": "a"}], "response": ""}',
            "line 2: response: must be text and not empty",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "line 2: messages: the last is the assistant's",
        ),
    ],
)
def test_a_row_of_another_shape_is_told_what_it_lacks(line: str, said: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[read_sft]])
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ExampleError) as told:
        read_sft(path)
    assert said in str(told.value)
    assert "more" not in str(told.value)


@pytest.mark.parametrize(("wrong", "more"), [(2, "and 1 more line"), (9, "and 8 more lines")])
def test_the_first_wrong_line_is_named_and_the_others_are_counted(wrong: int, more: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[read_sft], *[{"response": "b"}] * wrong])
    with pytest.raises(ExampleError, match=rf"line 2: messages: missing \({more}\)$"):
        read_sft(path)
