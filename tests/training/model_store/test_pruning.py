"""Old versions are removed; versions in use, their parents and imported ones never are."""

import os
import shutil
from pathlib import Path

import pytest

from tests.s3_server import S3Server
from tests.support.errors import refused
from training.artifacts.manifest import BASE_ADAPTER, MANIFEST, write_manifest
from training.artifacts.registry import Registry, RegistryError, VersionStage
from training.errors import ConfigError
from training.evaluation.canary_run import CandidateState, RolloutView
from training.model_store.bucket import ModelBucket, open_store
from training.model_store.pruning import plan_pruning, prune, prune_versions, stored_versions
from training.runs import RunRecord, RunResult, Runs

STORE = "s3://team/models"


class History:
    """A state folder in which `trained` adds finished runs."""

    def __init__(self, state: Path) -> None:
        self.runs, self.registry = Runs(state / "loop"), Registry(state / "models")
        self.models = state / "models"
        self.add("toy-0")

    def add(self, version: str, base: str = "") -> None:
        folder = self.models / version
        folder.mkdir(parents=True)
        (folder / "weights").write_text(version)
        report = {BASE_ADAPTER: {"base": base}} if base else {}
        write_manifest(folder, kind="model", version=version, report=report)

    def trained(
        self, number: int, incumbent: str = "toy-0", *, is_finished: bool = True, base: str = ""
    ) -> None:
        version = f"toy-{number}"
        started = f"2026-11-29T10:00:{number:02d}+00:00"
        self.runs.begin(RunRecord(version, "toy", incumbent, "snapshot", started))
        if is_finished:
            self.runs.end(version, RunResult("refused", "", started))
        self.add(version, base)

    def removed(self, view: RolloutView | None, keep: int) -> list[str]:
        plan = plan_pruning(
            self.runs, self.registry, view, stored_versions(self.registry, None), keep
        )
        return list(plan.removed)


@pytest.fixture
def history(tmp_path: Path) -> History:
    found = History(tmp_path / "state")
    for number in range(1, 7):
        found.trained(number)
    return found


def serving(stable: str, candidate: str = "", previous: str = "") -> RolloutView:
    return RolloutView(stable, candidate, CandidateState.ABSENT, previous=previous)


def test_the_newest_and_imported_versions_are_kept(history: History) -> None:
    assert history.removed(None, 2) == ["toy-1", "toy-2", "toy-3", "toy-4"]
    assert history.removed(None, 6) == []


@pytest.mark.parametrize(
    "view",
    [
        serving("toy-2"),
        serving("toy-0", candidate="toy-2"),
        serving("toy-0", previous="toy-2"),
    ],
)
def test_versions_in_use_are_kept(history: History, view: RolloutView) -> None:
    assert history.removed(view, 1) == ["toy-1", "toy-3", "toy-4", "toy-5"]


def test_promoted_version_and_its_parent_are_kept(history: History) -> None:
    history.trained(7, "toy-3")
    history.trained(8)
    history.registry.note("toy-7", VersionStage.PROMOTED, "", "toy-7")
    assert history.removed(None, 1) == ["toy-1", "toy-2", "toy-4", "toy-5", "toy-6"]


def test_base_of_an_adapter_in_use_is_kept(history: History) -> None:
    history.trained(7, "toy-3", base="toy-1")
    history.trained(8, base="toy-2")  # is not in use
    assert history.removed(serving("toy-7"), 1) == ["toy-2", "toy-4", "toy-5", "toy-6"]


def test_unfinished_run_and_its_incumbent_are_kept(history: History) -> None:
    history.trained(7, "toy-1", is_finished=False)
    assert history.removed(None, 1) == ["toy-2", "toy-3", "toy-4", "toy-5"]


def test_at_least_one_version_is_kept(history: History) -> None:
    with refused(ConfigError, field="keep", reason="OUT_OF_RANGE"):
        history.removed(None, 0)


def test_removed_version_leaves_registry_and_store(
    history: History, store: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = open_store(STORE, "--store", os.environ)
    for number in range(7):
        versions.upload(history.models / f"toy-{number}", f"toy-{number}")
    said: list[str] = []
    prune_versions(history.runs, history.registry, serving("toy-1"), versions, 2, said.append)
    left = ["toy-0", "toy-1", "toy-5", "toy-6"]
    assert versions.versions() == left
    assert sorted(path.name for path in history.models.iterdir()) == left
    assert [line.split()[-1] for line in said] == ["toy-2", "toy-3", "toy-4"]
    assert history.runs.record("toy-2").version == "toy-2"
    assert history.registry.next_version("toy", history.runs.names()) == "toy-7"
    with refused(RegistryError, reason="UNKNOWN"):
        history.registry.directory("toy-2")


def test_interrupted_removal_is_completed_by_the_next_call(
    history: History, store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = open_store(STORE, "--store", os.environ)
    versions.upload(history.models / "toy-1", "toy-1")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    plan = plan_pruning(
        history.runs, history.registry, None, stored_versions(history.registry, versions), 5
    )
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", fail)
        with pytest.raises(KeyboardInterrupt):
            prune(plan, history.registry, versions, print)
    prune_versions(history.runs, history.registry, None, versions, 5, print)
    assert versions.versions() == []
    left = [path.name for path in history.models.iterdir()]
    assert not [name for name in left if "toy-1" in name]


def test_upload_writes_the_manifest_last_and_once(history: History, store: S3Server) -> None:
    versions = open_store(STORE, "--store", os.environ)
    versions.upload(history.models / "toy-1", "toy-1")
    assert list(store.buckets["team"])[-1] == f"models/toy-1/{MANIFEST}"
    before = store.requests["PUT"]
    versions.upload(history.models / "toy-1", "toy-1")
    assert store.requests["PUT"] == before
    with refused(RegistryError, field="version", reason="EXISTS"):
        versions.upload(history.models / "toy-2", "toy-1")
    assert isinstance(versions, ModelBucket)
