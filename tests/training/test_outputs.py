"""A place that cannot be written: told in one line, and before the work."""

import os
from errno import EACCES, EISDIR, ENOTDIR
from pathlib import Path

import pytest

from training.__main__ import main
from training.outputs import check_writable, describe_os_error
from training.verification import commands


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Below a file nothing can lie, whoever asks."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


@pytest.mark.parametrize(
    "command",
    [
        "tokenizer train {texts} --vocabulary 300 --output {nowhere}",
        "tokenizer compare {texts} --page {nowhere}",
        "tokenizer show {texts} models/nano --page {nowhere}",
        "tasks write chain_sum --items 1 --output {nowhere}",
        "compare one another --page {nowhere}",
        "pretrain --recipe one_million --work {nowhere}",
        "rlvr --task chain_sum --model models/nano --work {nowhere}",
        "sft --model models/nano --data {texts} --work {nowhere}",
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_it_is_told_first_and_in_one_line(
    command: str, tmp_path: Path, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("some words\n" * 2000)
    words = [word.format(texts=tmp_path / "texts.txt", nowhere=nowhere) for word in command.split()]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert str(nowhere) in line
    assert os.strerror(ENOTDIR) in line


def test_what_lies_elsewhere_is_only_read(tmp_path: Path) -> None:
    work, data = tmp_path / "work", str(tmp_path / "rows.jsonl")
    error = OSError(EISDIR, "Is a directory", data)
    read, written = describe_os_error(error, [work]), describe_os_error(error, [Path(data)])
    assert read != written
    for text in (read, written):
        assert data in text
        assert "Is a directory" in text
    for path in (work, work / "runs" / "sft", work.with_suffix(".partial"), tmp_path):
        error = OSError(EACCES, "Permission denied", str(path))
        assert describe_os_error(error, [work]) == describe_os_error(error, [path])
        assert describe_os_error(error, [work]) != describe_os_error(error, [])


def test_a_fault_of_no_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("a socket's")

    def names() -> None:
        raise error

    monkeypatch.setattr(commands, "names", names)
    with pytest.raises(OSError) as caught:
        main(["tasks", "list"])
    assert caught.value is error


def test_looking_leaves_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "page.html")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
