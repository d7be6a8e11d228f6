"""Erasures reach all files of training, also after an interruption; figures and ancestry remain."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.feedback_log import principal_of
from tests.training.state_folder import StateFolder, holding, question
from training.artifacts.manifest import ManifestError, read_manifest
from training.data.feedback.snapshot import RANKINGS, open_snapshot, read_rankings
from training.erasure import APPLIED, ErasureResult, apply_erasures
from training.evaluation.comparison import SAMPLES


@pytest.fixture
def kept(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


def forget_in(kept: StateFolder) -> ErasureResult:
    return apply_erasures(kept.log, kept.loop, kept.registry)


def test_no_file_contains_texts_of_an_erased_user(kept: StateFolder) -> None:
    kept.chat("ann", "bob")
    turn = kept.finish("nano-1")
    before = holding(kept.loop, question("ann"))
    assert {Path(name).name for name in before} >= {
        "judgements.jsonl",
        "sft.jsonl",
        "prompts.jsonl",
        SAMPLES,
        "report.html",
    }
    of_ppo = turn.directory / "stages" / "ppo"
    told = {Path(name).name for name in holding(of_ppo, question("ann"))}
    assert told >= {SAMPLES, "report.html"}
    assert any(name.startswith("events.") for name in told)
    kept.log.erase("ann")
    assert forget_in(kept) == ErasureResult(1, (turn.snapshot.id,))
    assert (of_ppo / "report.html").exists()
    for words in ("whispered", principal_of("ann"), principal_of("bob")):
        assert holding(kept.loop, words) == []


@pytest.mark.parametrize("erased", ["ann", "rae"])
def test_no_file_contains_texts_after_the_erasure_of_a_user_or_a_reviewer(
    kept: StateFolder, erased: str
) -> None:
    kept.chat("bob", "cid")
    # Neither ann nor rae has feedback beside this ranking.
    kept.rank("ann", rater="rae")
    turn = kept.finish("nano-1")
    assert len(read_rankings(turn.snapshot)) == 1
    assert {Path(name).name for name in holding(kept.loop, question("ann"))} >= {
        RANKINGS,
        "prompts.jsonl",
    }
    kept.log.erase(erased)
    assert forget_in(kept) == ErasureResult(1, (turn.snapshot.id,))
    for words in ("whispered", principal_of("ann"), principal_of("rae"), principal_of("bob")):
        assert holding(kept.loop, words) == []


def test_manifests_and_figures_remain_and_record_the_erasure(kept: StateFolder) -> None:
    kept.chat("ann", "bob")
    turn = kept.finish("nano-1")
    kept.log.erase("somebody else")
    kept.log.erase("bob")
    forget_in(kept)
    for directory in (
        turn.snapshot.directory,
        turn.directory / "nano-1-sets",
        turn.directory / "nano-1-evaluation",
    ):
        before = read_manifest(directory)
        (erasure,) = before.erased
        assert erasure["number"] == 2
        assert erasure["time"].startswith("20")
    assert read_manifest(turn.snapshot.directory).report == turn.snapshot.manifest.report
    with refused(ManifestError, field=turn.snapshot.id, reason="ERASED") as caught:
        open_snapshot(turn.snapshot.directory)
    assert read_manifest(turn.snapshot.directory).erased[0]["time"] in str(caught.value)
    report = (turn.directory / "report.html").read_text()
    assert "Learned from erased feedback: 1 erasure since." in report
    assert "win rate" in report


def test_erasure_of_an_unknown_user_deletes_nothing(kept: StateFolder) -> None:
    kept.chat("ann")
    turn = kept.finish("nano-1")
    before = {path: path.read_bytes() for path in kept.loop.rglob("*") if path.is_file()}
    kept.log.erase("bob")
    assert forget_in(kept) == ErasureResult(1)
    assert {
        path: path.read_bytes()
        for path in kept.loop.rglob("*")
        if path.is_file() and path.name != APPLIED
    } == before
    assert open_snapshot(turn.snapshot.directory)


def test_erasure_is_applied_once(kept: StateFolder) -> None:
    kept.chat("ann")
    kept.finish("nano-1")
    kept.log.erase("ann")
    assert forget_in(kept).erasures == 1
    kept.chat("ann", about="later")
    later = kept.finish("nano-2")
    assert forget_in(kept) == ErasureResult(0)
    assert holding(later.snapshot.directory, question("ann"))


def test_later_erasures_of_an_erased_snapshot_are_counted(kept: StateFolder) -> None:
    kept.chat("ann", "bob", "cid")
    directory = kept.finish("nano-1").snapshot.directory
    for user in ("ann", "bob", "ann"):
        kept.log.erase(user)
        forget_in(kept)
    assert [erasure["number"] for erasure in read_manifest(directory).erased] == [1, 2]
    assert "2 erasures since" in (kept.loop / "runs" / "nano-1" / "report.html").read_text()


@pytest.mark.parametrize("left", [0, 1])
def test_restored_ledger_is_applied_from_its_start(kept: StateFolder, left: int) -> None:
    kept.chat("ann", "bob", "cid")
    directory = kept.finish("nano-1").snapshot.directory
    kept.log.erase("dan")
    kept.log.erase("eve")
    forget_in(kept)
    kept.log.erase("ann")  # not yet applied when the backup is restored
    kept.log.ledger = kept.log.ledger[:left]
    kept.log.erase("ann")
    kept.log.erase("eve")
    forget_in(kept)
    assert [erasure["number"] for erasure in read_manifest(directory).erased] == [left + 1]
    assert holding(kept.loop, "whispered") == []
    assert forget_in(kept) == ErasureResult(0)


def test_incomplete_snapshots_are_deleted(kept: StateFolder) -> None:
    kept.chat("ann")
    turn = kept.begin("nano-1")
    (turn.directory / "nano-1-sets" / "manifest.json").unlink()
    kept.write_samples(turn.directory / "nano-1-evaluation")
    shutil.copytree(turn.snapshot.directory, kept.loop / "snapshots" / ".partial")
    (kept.loop / "snapshots" / ".partial" / "manifest.json").unlink()
    kept.log.erase("ann")
    forget_in(kept)
    assert holding(kept.loop, "whispered") == []


class KilledError(BaseException):
    """Simulated kill that no code catches."""


class Killer:
    """Allows a number of file changes, then raises KilledError."""

    def __init__(self, patched: pytest.MonkeyPatch, changes: int) -> None:
        self._left = changes
        for name in ("unlink", "replace"):
            patched.setattr(Path, name, self._counted(getattr(Path, name)))
        patched.setattr(shutil, "rmtree", self._counted(shutil.rmtree))

    def _counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if not self._left:
                raise KilledError
            self._left -= 1
            return change(*arguments, **options)

        return counted


def test_next_call_completes_after_a_kill_at_any_point(
    kept: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.chat("ann", "bob", "cid")
    kept.rank("ann", rater="rae")
    first = kept.finish("nano-1").snapshot.id
    kept.log.erase("cid")
    forget_in(kept)
    kept.chat("dan")
    second = kept.finish("nano-2").snapshot.id
    (kept.loop / "snapshots" / ".partial").mkdir()
    kept.log.erase("ann")
    kept.log.erase("dan")
    for changes in range(100):
        loop = tmp_path / f"killed after {changes}"
        shutil.copytree(kept.loop, loop)
        with monkeypatch.context() as patched:
            Killer(patched, changes)
            try:
                whole = apply_erasures(kept.log, loop, kept.registry)
            except KilledError:
                assert json.loads((loop / APPLIED).read_text())["number"] == 1
                whole = None
        assert whole or apply_erasures(kept.log, loop, kept.registry).erasures == 2
        assert apply_erasures(kept.log, loop, kept.registry) == ErasureResult(0)
        assert holding(loop, "whispered") == []
        numbers = [
            [e["number"] for e in read_manifest(loop / "snapshots" / s).erased]
            for s in (first, second)
        ]
        assert numbers == [[1, 2], [2, 3]]
        reports = [
            (loop / "runs" / version / "report.html").read_text()
            for version in ("nano-1", "nano-2")
        ]
        assert ["2 erasures since" in reports[0], "2 erasures since" in reports[1]] == [True, True]
        if whole:
            break
    assert changes >= 15
