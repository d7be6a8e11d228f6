"""Stages in trackers: what is sent, once, and what a failing tracker does."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from infra.install import tracking as packages
from infra.install.environment import ROOT
from tests.support.errors import refused
from tests.training.stage_folder import SECRET, StageFolder
from tests.training.toys import sft_rows, toy_model, write_lines
from training.__main__ import main
from training.errors import ConfigError
from training.recipes.custom.stages import STAGES
from training.reporting import tracked_stages, tracking
from training.reporting.tracked_stages import TEXT_FIELDS, read_tracking, tracked
from training.reporting.trackers import TRACKERS, End, TrackedConfig
from training.reporting.tracking import INSTALL, Tracking, check_installed
from training.runtime.context import Progress
from training.stages.pretrain_config import PretrainConfig

STEPS = list(range(1, 7))
OWN_VARIABLES = ("WANDB_", "MLFLOW_")  # of the user, which a test does not pass on


class FakeTracker:
    """Tracker that keeps what it receives, and fails at the calls named in `fails`."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.fails = fails
        self.opened: list[tuple[TrackedConfig, str]] = []
        self.steps: list[int] = []
        self.ends: list[tuple[End, Mapping[str, float], Mapping[str, str]]] = []

    def open(self, config: TrackedConfig, run: str) -> str:
        self._try("open")
        self.opened.append((config, run))
        return run or f"run-{len(self.opened)}"

    def log(self, steps: Sequence[Progress]) -> None:
        self._try("log")
        self.steps += [step.step for step in steps]

    def close(self, end: End, figures: Mapping[str, float], notes: Mapping[str, str]) -> None:
        self._try("close")
        self.ends.append((end, figures, notes))

    def _try(self, call: str) -> None:
        if call in self.fails:
            raise ConnectionError(f"no server\nafter {call}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    """Return the tracker that `--track wandb` uses in a test; its package counts as installed."""
    tracker = FakeTracker()
    monkeypatch.setattr(tracked_stages, "TRACKERS", {"wandb": lambda _: tracker})
    monkeypatch.setattr(tracking, "PACKAGES", {"wandb": ()})
    monkeypatch.setattr(tracked_stages, "POLL_SECONDS", 0.01)
    return tracker


def track(stage: StageFolder, steps: Sequence[int], finish: bool = False) -> None:
    with tracked([stage.followed], Tracking(("wandb",))):
        stage.add(steps)
        if finish:
            stage.finish()


def test_resumed_stage_continues_its_run_and_sends_no_step_twice(
    fake: FakeTracker, tmp_path: Path
) -> None:
    stage = StageFolder(tmp_path)
    track(stage, [1, 2, 3, 4])
    track(stage, [3, 4, 5, 6], finish=True)
    track(stage, [])  # a finished stage is not opened again
    assert fake.steps == STEPS
    assert [run for _, run in fake.opened] == ["", "run-1"]
    assert [end for end, _, _ in fake.ends] == [End.STOPPED, End.FINISHED]
    _, figures, notes = fake.ends[-1]
    assert figures == {"held_out_loss": 0.25, "held_out_examples": 3, "by_source.thumbs": 3}
    assert notes["state"] == "finished"
    assert "3" in notes["warnings"]  # of 3 held-out examples
    assert read_tracking(stage.directory)["wandb"].step == 6


def test_steps_before_the_option_was_given_are_sent(fake: FakeTracker, tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    stage.add([1, 2, 3])
    track(stage, [4, 5, 6])
    assert fake.steps == STEPS


def test_kill_between_writing_and_sending_repeats_no_step(
    fake: FakeTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = StageFolder(tmp_path)
    track(stage, [1, 2])
    fake.fails = ["log"]
    track(stage, [3])
    fake.fails = []
    track(stage, [3, 4])
    assert fake.steps == [1, 2, 4]


def test_config_and_hashes_are_tracked_and_texts_are_not(fake: FakeTracker, tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    track(stage, [1], finish=True)
    config = fake.opened[0][0]
    assert (config.name, config.kind) == ("tuned", "sft")
    assert config.fields["optimizer.learning_rate"] == 0.5
    assert config.fields["inputs.data_path"] == "d" * 64
    assert config.fields["lineage.code_commit"] == "c0ffee"
    assert SECRET not in str((fake.opened, fake.ends))


def test_every_config_field_with_texts_is_known() -> None:
    def texts(config: type, within: str = "") -> list[str]:
        hints, found = get_type_hints(config), list[str]()
        for field in fields(config):
            name, kinds = within + field.name, {hints[field.name], *get_args(hints[field.name])}
            if tuple[str, ...] in kinds:
                found.append(name)
            for kind in kinds:
                found += texts(kind, f"{name}.") if is_dataclass(kind) else []
        return found

    configs = [PretrainConfig, *(stage.config for stage in STAGES.values())]
    lists = {name for config in configs for name in texts(config)}
    # Versions, names of layers and command-line arguments are no texts of users.
    allowed = {"off_policy.versions", "lora.targets", "rollout_server.arguments"}
    assert lists - allowed == {*TEXT_FIELDS}


def test_failed_stage_is_tracked_without_its_error(fake: FakeTracker, tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    (stage.directory / "failure.txt").write_text(f"line 3: {SECRET}")
    track(stage, [1])
    assert fake.ends == [(End.FAILED, {}, {"state": "failed"})]


def test_stage_without_a_step_has_no_tracked_run(fake: FakeTracker, tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    track(stage, [])
    assert (fake.opened, fake.ends) == ([], [])
    assert not (stage.directory / "tracking.json").exists()


@pytest.mark.parametrize("call", ["open", "log", "close"])
def test_failing_tracker_gives_one_warning_and_the_stage_goes_on(
    call: str, fake: FakeTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fails = [call]
    stages = [StageFolder(tmp_path, name) for name in ("first", "second")]
    with tracked([stage.followed for stage in stages], Tracking(("wandb",))):
        for stage in stages:
            stage.add([1, 2])
            stage.finish()
    (warning,) = caplog.records
    assert "wandb" in warning.getMessage()
    assert "no server" in warning.getMessage()
    assert "\n" not in warning.getMessage()


def test_missing_package_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A folder of this name, such as that of offline runs, is not the package.
    (tmp_path / "nowhere").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tracking, "PACKAGES", {"wandb": ("json", "nowhere"), "mlflow": ("json",)})
    check_installed(["mlflow"])
    with refused(ConfigError, field="track", reason="MISSING", limit=INSTALL):
        check_installed(["mlflow", "wandb"])
    command = ["sft", "--model", "m", "--data", "d", "--work", str(tmp_path / "work")]
    assert main([*command, "--track", "wandb"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(INSTALL)
    assert not (tmp_path / "work").exists()


def test_command_tracks_its_stage(fake: FakeTracker, tmp_path: Path) -> None:
    toy_model(tmp_path / "first")
    data = write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    command = ["sft", "--model", str(tmp_path / "first"), "--data", str(data), "--name", "taught"]
    work = ["--work", str(tmp_path / "work"), "--track", "wandb", "--track", "wandb"]
    assert main([*command, *work, "--set", "machine.threads=1"]) == 0
    assert fake.steps == list(range(1, len(fake.steps) + 1))
    ((end, figures, _),) = fake.ends
    assert end is End.FINISHED
    assert figures["steps"] == len(fake.steps)


@pytest.fixture
def tracking_packages() -> Path:
    """Return the folder with the real wandb and MLflow."""
    return packages.site_packages()


@pytest.mark.slow
def test_wandb_and_mlflow_store_a_resumed_run_once(tracking_packages: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}:{tracking_packages}"}
    kept = {name: text for name, text in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tracked_run.py")), str(tmp_path)],
        env={**kept, **home},
        capture_output=True,
        text=True,
        check=True,
    )
    stored: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert stored.keys() == TRACKERS.keys()
    for one in stored.values():
        assert one["steps"] == [[step, pytest.approx(1 / step)] for step in STEPS]
        assert len(one["ids"]) == 1
        assert float(one["config"]["optimizer.learning_rate"]) == 0.5
        assert one["config"]["inputs.data_path"] == "d" * 64
        assert one["summary"]["end/held_out_loss"] == 0.25
    assert stored["wandb"]["files"] == 2  # offline files of one id, which `wandb sync` joins
    assert stored["wandb"]["summary"]["state"] == "finished"
    assert stored["mlflow"]["status"] == "FINISHED"
    files = [path for path in (tmp_path / "tracking").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    # A server that cannot be reached, or lacks a key: one warning each.
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["wandb", "mlflow"]
