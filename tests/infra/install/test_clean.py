"""make clean: what goes is named first, what stays is named too, and nothing goes under the feet of
who works in it.
"""

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


def line_about(folder: Path, said: str) -> set[str]:
    """What the line about a folder names: its size, and the command or the setting that removes it."""
    (line,) = [
        line for line in said.splitlines() if re.search(rf" {re.escape(str(folder))}[,;: ]", line)
    ]
    return set(re.findall(r"\d[\d.]* k?B\b|ALL=1|rm -rf [^\s)]+", line))


def test_without_all_only_the_environment_goes_and_the_rest_is_named(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean(clone, clone.parent / "downloads", everything=False)
    assert left(clone) == {".state", ".state-other", "models", "README.md"}
    said = capsys.readouterr().out
    for folder in (".state", ".state-other"):
        assert {"10.0 kB", "ALL=1"} <= line_about(clone / folder, said)
    downloads = clone.parent / "downloads"
    assert {"0 B", f"rm -rf {downloads}"} <= line_about(downloads, said)


def test_with_all_the_states_go_and_the_downloads_stay(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean(clone, clone.parent / "downloads", everything=True)
    assert left(clone) == {"models", "README.md"}
    assert (clone.parent / "downloads").is_dir()
    assert line_about(clone / ".state-other", capsys.readouterr().out) == {"10.0 kB"}


@pytest.mark.parametrize("where", [".state", ".state/stack", ".state/stack/servers"])
def test_nothing_goes_while_somebody_works_in_it(clone: Path, where: str) -> None:
    (clone / where).mkdir(parents=True, exist_ok=True)
    (clone / where / "running.json").write_text(json.dumps({"pid": os.getpid(), "ports": {}}))
    before = left(clone)
    with pytest.raises(SystemExit) as caught:
        clean(clone, clone.parent / "downloads", everything=True)
    words = {word.strip(".,;:()") for word in str(caught.value).split()}
    assert {str(os.getpid()), str(clone / where)} <= words
    assert left(clone) == before


def test_of_a_link_only_the_link_goes(clone: Path) -> None:
    elsewhere = clone.parent / "elsewhere"
    (clone / ".state").rename(elsewhere)
    (clone / ".state").symlink_to(elsewhere)
    clean(clone, clone.parent / "downloads", everything=True)
    assert ".state" not in left(clone)
    assert (elsewhere / "keys.db").exists()


def test_a_file_with_two_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(2_000_000))
    os.link(tmp_path / "one", tmp_path / "two")
    assert size(tmp_path) == "2.0 MB"
