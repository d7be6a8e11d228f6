"""make clean: what goes is named first, what stays is named too, and nothing goes under the feet of who works in it."""

import json
import os
from pathlib import Path

import pytest

from infra.install.clean import clean, size


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for file in (".venv/bin/python", ".state/keys.db", ".state-other/keys.db", "models/nano/config.json", "README.md"):
        path = tmp_path / "clone" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10_000))
    (tmp_path / "downloads").mkdir()
    return tmp_path / "clone"


def left(clone: Path) -> set[str]:
    return {path.name for path in clone.iterdir()}


def test_without_all_only_the_environment_goes_and_the_rest_is_named(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean(clone, clone.parent / "downloads", everything=False)
    assert left(clone) == {".state", ".state-other", "models", "README.md"}
    said = capsys.readouterr().out
    for folder in (".state", ".state-other"):
        assert f"stays: {clone / folder}, 10.0 kB: conversations, thumbs, models, keys (make clean ALL=1" in said
    assert f"stays: {clone.parent / 'downloads'}, 0 B: downloads of all clones" in said


def test_with_all_the_states_go_and_the_downloads_stay(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean(clone, clone.parent / "downloads", everything=True)
    assert left(clone) == {"models", "README.md"}
    assert (clone.parent / "downloads").is_dir()
    assert f"removing {clone / '.state-other'}, 10.0 kB" in capsys.readouterr().out


@pytest.mark.parametrize("where", [".state", ".state/stack", ".state/stack/servers"])
def test_nothing_goes_while_somebody_works_in_it(clone: Path, where: str) -> None:
    (clone / where).mkdir(parents=True, exist_ok=True)
    (clone / where / "running.json").write_text(json.dumps({"pid": os.getpid(), "ports": {}}))
    before = left(clone)
    with pytest.raises(SystemExit, match=f"nothing removed: process {os.getpid()} works in {clone / where};"):
        clean(clone, clone.parent / "downloads", everything=True)
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
