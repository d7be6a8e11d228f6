"""Ancestry of versions: erased feedback in their own snapshot or in those of their incumbents."""

import json
import shutil
from pathlib import Path

import pytest

from tests.training.state_folder import StateFolder
from training.__main__ import main
from training.artifacts.lineage import Ancestry, erased_versions, trace
from training.artifacts.manifest import write_manifest
from training.artifacts.registry import VersionStage
from training.erasure import apply_erasures
from training.runs import RunRecord, Runs


@pytest.fixture
def kept(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


def ancestries(kept: StateFolder) -> dict[str, Ancestry]:
    return {ancestry.version: ancestry for ancestry in trace(Runs(kept.loop), kept.registry)}


def follow(kept: StateFolder, version: str, incumbent: str, snapshot: str) -> None:
    """Record a run that started from another version."""
    Runs(kept.loop).begin(
        RunRecord(version, "nano", incumbent, snapshot, f"2026-11-26T10:00:0{version[-1]}+00:00")
    )


def test_ancestry_includes_own_snapshot_and_those_of_incumbents(kept: StateFolder) -> None:
    kept.chat("ann")
    first = kept.finish("nano-1").snapshot.id
    kept.log.forbidden = {"ann"}
    kept.chat("bob", "cid")
    second = kept.finish("nano-2").snapshot.id
    follow(kept, "nano-3", "nano-1", second)
    follow(kept, "nano-4", "nano-3", second)
    kept.log.erase("ann")
    apply_erasures(kept.log, kept.loop, kept.registry)
    found = ancestries(kept)
    assert found["nano-0"] == Ancestry("nano-0", "", "", 0)
    assert found["nano-1"] == Ancestry("nano-1", "candidate", first, 1)
    assert found["nano-2"] == Ancestry("nano-2", "candidate", second, 0)
    assert found["nano-3"] == Ancestry("nano-3", "", second, 1, ("nano-1",), unfinished=True)
    assert found["nano-4"] == Ancestry("nano-4", "", second, 1, ("nano-1",), unfinished=True)
    assert f"learned from {second}" in found["nano-2"].text()
    assert "unfinished" in found["nano-4"].text()
    assert "learned" not in found["nano-4"].text()
    kept.registry.note("nano-4", VersionStage.CANARY, "", "nano-4")
    assert f"learned from {second}" in ancestries(kept)["nano-4"].text()
    kept.log.erase("bob")
    apply_erasures(kept.log, kept.loop, kept.registry)
    assert [ancestries(kept)[f"nano-{n}"].erasures for n in range(5)] == [0, 1, 1, 2, 2]
    assert ancestries(kept)["nano-4"].through == ("nano-3", "nano-1")


def test_missing_snapshot_is_reported_as_unknown(kept: StateFolder) -> None:
    kept.chat("ann")
    snapshot = kept.finish("nano-1").snapshot
    shutil.rmtree(snapshot.directory)
    found = ancestries(kept)["nano-1"]
    assert (found.erasures, found.unknown) == (0, (snapshot.id,))
    assert found.text().count(snapshot.id) == 2  # once as training data, once as unknown


def test_version_without_a_run_uses_its_manifest(kept: StateFolder, tmp_path: Path) -> None:
    kept.chat("ann")
    snapshot = kept.finish("nano-1").snapshot
    model = tmp_path / "model"
    model.mkdir()
    write_manifest(
        model,
        kind="model",
        version="nano-1",
        data={"snapshot": snapshot.id, "sha256": snapshot.sha256},
    )
    kept.registry.admit(model, "nano-1")
    kept.registry.note("nano-1", VersionStage.PROMOTED, "better", "nano-1")
    shutil.rmtree(kept.loop / "runs")
    kept.log.erase("ann")
    apply_erasures(kept.log, kept.loop, kept.registry)
    assert ancestries(kept)["nano-1"] == Ancestry("nano-1", "promoted", snapshot.id, 1)


def test_cyclic_incumbents_end(kept: StateFolder) -> None:
    follow(kept, "nano-1", "nano-2", "snapshot-1")
    follow(kept, "nano-2", "nano-1", "snapshot-2")
    assert ancestries(kept)["nano-1"].unknown == ("snapshot-1", "snapshot-2")


def test_command_prints_a_line_per_version_or_only_erased_ones(
    kept: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.chat("ann")
    snapshot = kept.finish("nano-1").snapshot.id
    kept.log.erase("ann")
    apply_erasures(kept.log, kept.loop, kept.registry)
    assert main(["lineage", "--state", str(tmp_path / "gone")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "state" in line
    assert str(tmp_path / "gone") in line
    assert main(["lineage", "--state", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["nano-0", "-"]
    assert "snapshot" not in first
    assert second.split()[:2] == ["nano-1", "candidate"]
    assert snapshot in second
    assert "1" in second.replace(snapshot, "").split()
    assert main(["lineage", "--erased", "--state", str(tmp_path)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["nano-1"]


def test_status_contains_only_erased_versions(kept: StateFolder) -> None:
    kept.chat("ann")
    snapshot = kept.finish("nano-1").snapshot.id
    assert erased_versions(list(ancestries(kept).values())) == []
    kept.log.erase("ann")
    apply_erasures(kept.log, kept.loop, kept.registry)
    told = json.loads(json.dumps(erased_versions(list(ancestries(kept).values()))))
    assert told == [{"version": "nano-1", "snapshot": snapshot, "erasures": 1, "through": []}]
