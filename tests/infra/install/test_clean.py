"""`make clean`: removed and preserved folders are printed, and running systems are protected."""

import json
import os
import re
from pathlib import Path

import pytest

from infra.install.clean import clean, size


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for file in (
        ".venv/bin/python",
        ".state/keys.db",
        ".state-other/keys.db",
        "models/nano/config.json",
        "README.md",
    ):
        path = tmp_path / "clone" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10_000))
    (tmp_path / "downloads").mkdir()
    return tmp_path / "clone"


def left(clone: Path) -> set[str]:
    return {path.name for path in clone.iterdir()}


def line_about(folder: Path, output: str) -> set[str]:
    """Return the size and the command or setting in the line about a folder."""
    (line,) = [
        line for line in output.splitlines() if re.search(rf" {re.escape(str(folder))}[,;: ]", line)
    ]
    return set(re.findall(r"\d[\d.]* k?B\b|ALL=1|rm -rf [^\s)]+", line))


def test_without_all_only_the_environment_is_removed(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean(clone, clone.parent / "downloads", everything=False)
    assert left(clone) == {".state", ".state-other", "models", "README.md"}
    output = capsys.readouterr().out
    for folder in (".state", ".state-other"):
        assert {"10.0 kB", "ALL=1"} <= line_about(clone / folder, output)
    downloads = clone.parent / "downloads"
    assert {"0 B", f"rm -rf {downloads}"} <= line_about(downloads, output)


def test_with_all_states_are_removed_and_downloads_preserved(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean(clone, clone.parent / "downloads", everything=True)
    assert left(clone) == {"models", "README.md"}
    assert (clone.parent / "downloads").is_dir()
    assert line_about(clone / ".state-other", capsys.readouterr().out) == {"10.0 kB"}


@pytest.mark.parametrize("where", [".state", ".state/stack", ".state/stack/servers"])
def test_running_system_prevents_removal(clone: Path, where: str) -> None:
    (clone / where).mkdir(parents=True, exist_ok=True)
    (clone / where / "running.json").write_text(json.dumps({"pid": os.getpid(), "ports": {}}))
    before = left(clone)
    with pytest.raises(SystemExit) as caught:
        clean(clone, clone.parent / "downloads", everything=True)
    words = {word.strip(".,;:()") for word in str(caught.value).split()}
    assert {str(os.getpid()), str(clone / where)} <= words
    assert left(clone) == before


def test_only_the_link_is_removed(clone: Path) -> None:
    elsewhere = clone.parent / "elsewhere"
    (clone / ".state").rename(elsewhere)
    (clone / ".state").symlink_to(elsewhere)
    clean(clone, clone.parent / "downloads", everything=True)
    assert ".state" not in left(clone)
    assert (elsewhere / "keys.db").exists()


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(2_000_000))
    os.link(tmp_path / "one", tmp_path / "two")
    assert size(tmp_path) == "2.0 MB"
