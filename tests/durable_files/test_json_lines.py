"""Every byte at which an append may be cut, and what readers and later appends see."""

import json
import os
from pathlib import Path

import pytest

from durable_files.json_lines import append_lines, read_lines

ROWS = [{"n": 1, "text": "a"}, {"n": 2, "text": "ä\nb"}, {"n": 3, "text": "\ud83d"}]


def test_rows_are_read_in_the_order_of_their_appends(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "rows.jsonl"
    assert read_lines(path) == []
    append_lines(path, ROWS[:1])
    append_lines(path, ROWS[1:])
    assert read_lines(path) == ROWS
    assert path.read_bytes().count(b"\n") == len(ROWS)


def test_a_row_cut_at_any_byte_hides_no_other_row_before_and_after_the_next_append(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    append_lines(path, ROWS[:1])
    kept = path.read_bytes()
    append_lines(path, ROWS[1:2])
    line = path.read_bytes()[len(kept) :]
    for end in range(len(line)):
        path.write_bytes(kept + line[:end])
        # A line that lacks only its end is whole.
        rows = ROWS[: 1 + (end == len(line) - 1)]
        assert read_lines(path) == rows
        append_lines(path, ROWS[2:])
        assert read_lines(path) == [*rows, ROWS[2]]
        assert path.read_bytes().startswith(kept + line[:end]), "bytes of the log were taken back"
        torn = 0 < end < len(line) - 1
        assert (f"{path}: 1 " in capsys.readouterr().err) is torn


@pytest.mark.parametrize("line", [b"\0" * 40, b"[1]", b"7", b"\xff{}", b"{}}"])
def test_lines_that_are_no_json_object_are_left_out(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b"\n" + b'{"n": 2}\n')
    assert read_lines(path) == [{"n": 1}, {"n": 2}]


def test_rows_are_synced_unless_the_caller_needs_no_durability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "rows.jsonl"
    append_lines(path, ROWS, sync=False)
    assert synced == []
    append_lines(path, [])
    assert synced == [path, tmp_path]
    assert read_lines(path) == ROWS


def test_an_append_to_a_full_device_is_reported_and_the_next_one_is_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="28"):
        append_lines(Path("/dev/full"), ROWS)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0])[:5])
    append_lines(path, ROWS[1:])
    assert read_lines(path) == ROWS[1:]
