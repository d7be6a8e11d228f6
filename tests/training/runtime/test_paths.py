"""Unwritable output paths are reported in one line and before any work."""

import os
from errno import EACCES, EISDIR, ENOTDIR
from pathlib import Path

import pytest

from tests.training.refused_commands import refused_command
from training.__main__ import main
from training.runtime.paths import check_writable, describe_os_error
from training.verification import commands


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Return a path below a file, which nothing can create."""
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
        "pretrain --shape one_million --work {nowhere}",
        "rlvr --task chain_sum --model models/nano --work {nowhere}",
        "sft --model models/nano --data {texts} --work {nowhere}",
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_unwritable_output_is_reported_first_in_one_line(
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


def test_other_paths_are_reported_as_unreadable(tmp_path: Path) -> None:
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


def test_os_error_without_a_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("a socket's")

    def names() -> None:
        raise error

    monkeypatch.setattr(commands, "names", names)
    with pytest.raises(OSError) as caught:
        main(["tasks", "list"])
    assert caught.value is error


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing", None, "MISSING"),
        (".", None, "WRONG_TYPE"),
        ("image", b"\x89PNG\xff", "NOT_UTF8"),
        ("blank", b" \n", "EMPTY"),
    ],
)
@pytest.mark.parametrize("option", ["--token-file", "--chat-template"])
def test_unusable_file_of_an_option_is_refused(
    option: str,
    name: str,
    content: bytes | None,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    words = ["import", "owner/model", "--name", "a", "--to", str(tmp_path / "models")]
    file = str(tmp_path / name)
    _, line = refused_command([*words, option, file], capsys, field=option, reason=reason)
    assert file.removesuffix("/.") in line
    assert not (tmp_path / "models").exists()


def test_check_leaves_no_files_and_creates_no_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "page.html")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
