"""Versions appear atomically and never change, and the history only grows."""

from pathlib import Path

import pytest

from tests.support.errors import refused
from training.artifacts.manifest import ManifestError, write_manifest
from training.artifacts.registry import Registry, RegistryError, VersionStage


def model(directory: Path, weights: str = "weights") -> Path:
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_text(weights)
    write_manifest(directory, kind="model", version="nano-1")
    return directory


def test_model_is_admitted_once(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    source = model(tmp_path / "run" / "nano-1")
    admitted = registry.admit(source, "nano-1")
    assert admitted == registry.directory("nano-1") == registry.admit(source, "nano-1")
    assert (admitted / "model.safetensors").read_text() == "weights"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["nano-1"]


def test_version_cannot_be_replaced_by_another_model(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    registry.admit(model(tmp_path / "a"), "nano-1")
    with refused(RegistryError, field="version", reason="EXISTS") as caught:
        registry.admit(model(tmp_path / "b", "other weights"), "nano-1")
    assert "nano-1" in str(caught.value)


def test_partial_version_is_replaced(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    half = tmp_path / "models" / "nano-1"
    half.mkdir(parents=True)
    (half / "junk").write_text("junk")
    with refused(RegistryError, field="version", reason="UNKNOWN") as caught:
        registry.directory("nano-1")
    assert "nano-1" in str(caught.value)
    registry.admit(model(tmp_path / "a"), "nano-1")
    assert not (registry.directory("nano-1") / "junk").exists()


def test_model_that_differs_from_its_manifest_is_rejected(tmp_path: Path) -> None:
    source = model(tmp_path / "a")
    (source / "model.safetensors").write_text("changed")
    with refused(ManifestError, field="model.safetensors", reason="MISMATCH"):
        Registry(tmp_path / "models").admit(source, "nano-1")


@pytest.mark.parametrize("version", ["", "../nano", "Nano", "a b", "x" * 129, ".hidden"])
def test_invalid_version_name_is_rejected(tmp_path: Path, version: str) -> None:
    with refused(RegistryError, field="version", reason="MALFORMED"):
        Registry(tmp_path).directory(version)


def test_history_grows_without_duplicates(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for _ in range(2):
        registry.note("nano-1", VersionStage.GATED, "all checks passed", "nano-1")
        registry.note("nano-1", VersionStage.PROMOTED, "users like it more", "nano-1")
    registry.note("nano-2", VersionStage.REFUSED, "win rate", "nano-2")
    assert [(event.version, event.stage) for event in registry.history()] == [
        ("nano-1", VersionStage.GATED),
        ("nano-1", VersionStage.PROMOTED),
        ("nano-2", VersionStage.REFUSED),
    ]
    assert registry.promoted() == "nano-1"


def test_a_torn_line_of_the_history_stops_no_further_run(tmp_path: Path) -> None:
    registry, history = Registry(tmp_path), tmp_path / "registry.jsonl"
    registry.note("nano-1", VersionStage.PROMOTED, "users like it more", "nano-1")
    whole = history.read_bytes()
    registry.note("nano-2", VersionStage.GATED, "all checks passed", "nano-2")
    torn = history.read_bytes()[:-9]
    for _ in range(2):
        history.write_bytes(torn)
        assert registry.promoted() == "nano-1"
        registry.note("nano-2", VersionStage.GATED, "all checks passed", "nano-2")
        registry.note("nano-3", VersionStage.PROMOTED, "users like it more", "nano-3")
        assert [event.version for event in registry.history()] == ["nano-1", "nano-2", "nano-3"]
        assert (registry.promoted(), registry.next_version("nano", ())) == ("nano-3", "nano-4")
        torn = whole + b"\0" * 99 + b"\n"  # blocks that were never written


def test_a_promotion_that_was_rolled_back_later_does_not_count(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for version in ("nano-1", "nano-2"):
        registry.note(version, VersionStage.PROMOTED, "users like it more", version)
    registry.note("nano-2", VersionStage.ROLLED_BACK, "errors", "nano-2")
    assert registry.promoted() == "nano-1"


def test_partial_line_is_ignored(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.note("nano-1", VersionStage.GATED, "", "nano-1")
    with (tmp_path / "registry.jsonl").open("a") as opened:
        opened.write('{"time": "2026')
    assert len(registry.history()) == 1


def test_version_numbers_are_never_reused(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert registry.next_version("nano", []) == "nano-1"
    (tmp_path / "nano-3").mkdir()
    assert registry.next_version("nano", ["nano-11", "small-20"]) == "nano-12"
    assert registry.next_version("small", []) == "small-1"
