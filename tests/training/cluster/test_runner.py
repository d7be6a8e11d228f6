"""Execution of stages in this process and under Ray, with a killed worker in a long test."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.cluster.runs import Told, sft_config
from tests.training.toys import ProgressList, sft_rows, toy_model, write_lines
from training.artifacts.manifest import Manifest, verify_manifest
from training.cluster import runner
from training.cluster.group import ENVIRONMENT, Group, ray_cluster
from training.cluster.notice import STOP_FILE
from training.cluster.runner import (
    StageRefusedError,
    StageRun,
    _context_here,
    _Task,
    run_stage,
    run_stages,
)
from training.errors import ConfigError
from training.optim.optimizers import OptimizerConfig
from training.progress_log import ProgressLog, read_progress
from training.rl.correction import StaleRolloutError
from training.runtime.context import Progress, RunContext, StoppedError
from training.runtime.training_state import latest_complete
from training.stages import sft
from training.stages.sft import SftConfig


@pytest.fixture
def config(tmp_path: Path) -> SftConfig:
    toy_model(tmp_path / "first")
    write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    return sft_config(tmp_path, "straight")


def test_stage_writes_output_checkpoints_and_progress(config: SftConfig, tmp_path: Path) -> None:
    seen = ProgressList()
    manifest = run_stage(StageRun("run", sft.run, config), tmp_path / "runs", seen)
    assert manifest == verify_manifest(config.output_directory)
    assert [step.step for step in seen.steps] == list(range(1, 11))
    assert read_progress(tmp_path / "runs" / "run" / "progress.jsonl") == seen.steps
    checkpoint = latest_complete(tmp_path / "runs" / "run")
    assert checkpoint is not None
    assert checkpoint.name == "step-000010"


def test_stages_run_in_order_and_report_start_and_end(config: SftConfig, tmp_path: Path) -> None:
    seen = Told()
    second = replace(
        sft_config(tmp_path, "second"), model_directory=config.output_directory, epochs=1
    )
    runs = [StageRun("first", sft.run, config), StageRun("second", sft.run, second)]
    manifests = run_stages(runs, tmp_path / "runs", Group(), seen)
    assert [manifest.version for manifest in manifests] == ["straight", "second"]
    first = [f"first {step}" for step in range(1, 11)]
    assert seen.events == [
        *("begin first", *first, "end first"),
        *("begin second", *[f"second {step}" for step in range(1, 6)], "end second"),
    ]


def test_stages_after_a_stopping_stage_do_not_run(config: SftConfig, tmp_path: Path) -> None:
    never = StageRun("never", sft.run, sft_config(tmp_path, "never"))
    closing = StageRun("closing", sft.run, config, continue_if=lambda: False)
    for steps in ([f"closing {step}" for step in range(1, 11)], []):
        seen = Told()
        # A second time with workers, without starting any, because nothing remains to run.
        manifests = run_stages(
            [closing, never], tmp_path / "runs", Group(workers=0 if steps else 1), seen
        )
        assert [manifest.version for manifest in manifests] == ["straight"]
        assert seen.events == ["begin closing", *steps, "end closing"]
    assert not (tmp_path / "runs" / "ray").exists()
    assert not never.config.output_directory.exists()


def test_finished_stage_returns_immediately(config: SftConfig, tmp_path: Path) -> None:
    first = run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    seen = Told()
    assert run_stages(
        [StageRun("another", sft.run, config)], tmp_path / "runs", Group(workers=1), seen
    ) == [first]
    assert seen.events == ["begin another", "end another"]


def test_later_lines_of_a_step_are_valid(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path / "progress.jsonl")
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (2, 2.5)):
        log.append(Progress("sft", step, 3, {"loss": loss}))
    assert [(p.step, p.metrics["loss"]) for p in read_progress(tmp_path / "progress.jsonl")] == [
        (1, 3.0),
        (2, 2.5),
        (3, 1.0),
    ]


def test_checkpoint_that_differs_from_its_manifest_is_ignored(
    config: SftConfig, tmp_path: Path
) -> None:
    run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    run = tmp_path / "runs" / "run"
    (tensors,) = (run / "step-000010").glob("*.safetensors")
    tensors.write_bytes(b"torn")
    (run / "step-000012").mkdir()
    newest = latest_complete(run)
    assert newest is not None
    assert newest.name == "step-000008"


@dataclass(frozen=True)
class FatalSft:
    """SFT config whose worker is killed once after a step."""

    sft: SftConfig
    kill_after_step: int | None
    marker: Path

    @property
    def output_directory(self) -> Path:
        return self.sft.output_directory


def run_and_die(config: FatalSft, context: RunContext) -> Manifest:
    def progress(step: Progress) -> None:
        context.progress(step)
        if step.step == config.kill_after_step and not config.marker.exists():
            config.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return sft.run(config.sft, RunContext(context.checkpoints, progress, context.ranks))


def test_non_finite_gradient_is_returned_so_that_ray_does_not_retry(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_context_of_worker", _context_here)
    (tmp_path / "runs" / "far").mkdir(parents=True)
    far = replace(config, optimizer=OptimizerConfig(learning_rate=1e30, warmup_fraction=0.0))
    end = runner._work({"task": runner._Task([StageRun("far", sft.run, far)], tmp_path / "runs")})
    assert end is not None
    assert end.refusal is not None
    with refused(StageRefusedError, field="gradient", reason="NOT_FINITE"):
        raise end.refusal


def test_stale_rollout_is_returned_so_that_ray_does_not_retry(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: SftConfig, context: RunContext) -> Manifest:
        raise StaleRolloutError(
            "update-1 in update 3", field="max_staleness_updates", limit="at most 1"
        )

    monkeypatch.setattr(runner, "_context_of_worker", _context_here)
    (tmp_path / "runs" / "stale").mkdir(parents=True)
    end = runner._work(
        {"task": runner._Task([StageRun("stale", stale, config)], tmp_path / "runs")}
    )
    assert end is not None
    end = pickle.loads(pickle.dumps(end))  # as sent by Ray to the driver
    assert end.refusal is not None
    stale_by = {"field": "max_staleness_updates", "reason": "STALE_ROLLOUT", "limit": "at most 1"}
    with refused(StageRefusedError, **stale_by) as caught:
        raise end.refusal
    assert str(caught.value) == "StaleRolloutError: update-1 in update 3"


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on a free machine, minutes if ten processes use its two cores
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Ray about its own settings
# Ray takes half a minute to start its workers, so a kill with a restart is a long test.
@pytest.mark.parametrize(
    "killed_after", [None, pytest.param(5, marks=pytest.mark.long)], ids=["not killed", "killed"]
)
def test_stages_under_ray_are_bit_identical_and_errors_not_retried(
    config: SftConfig, tmp_path: Path, killed_after: int | None
) -> None:
    run_stage(StageRun("straight", sft.run, config), tmp_path / "runs")
    killed = FatalSft(
        sft_config(tmp_path, "killed"), kill_after_step=killed_after, marker=tmp_path / "died"
    )
    runs: list[StageRun[Any]] = [
        StageRun("killed", run_and_die, killed),
        StageRun("refused", sft.run, replace(sft_config(tmp_path, "refused"), max_tokens=1)),
        StageRun("never", sft.run, sft_config(tmp_path, "never")),
    ]
    seen = Told()
    with refused(StageRefusedError, field="max_tokens", reason="TOO_SMALL") as caught:
        run_stages(runs, tmp_path / "runs", Group(workers=1), seen)
    # Set by Ray when it requires the token (finding S-12).
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "ConfigError" in str(caught.value)
    assert (tmp_path / "died").exists() == (killed_after is not None)
    # After a kill, step 5 is repeated from checkpoint 4; the stage after a rejected one does not
    # start.
    again = [] if killed_after is None else [5]
    steps = [f"killed {step}" for step in sorted([*range(1, 11), *again])]
    assert seen.events == ["begin killed", *steps, "end killed", "begin refused"]
    assert (
        verify_manifest(killed.output_directory).report
        == verify_manifest(config.output_directory).report
    )
    one, other = (
        load_file(d / "model.safetensors")
        for d in (config.output_directory, killed.output_directory)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("message", "tries"),
    [
        ("The current node timed out during startup.", 3),
        ("Timed out waiting for file gcs_port", 3),
        ("no such port", 1),
    ],
)
def test_ray_start_is_retried_only_after_a_timeout(
    monkeypatch: pytest.MonkeyPatch, message: str, tries: int
) -> None:
    calls: list[int] = []

    def too_slow(num_cpus: int, **_: object) -> None:
        calls.append(num_cpus)
        raise Exception(message)

    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    with pytest.raises(Exception, match=message), ray_cluster(1):
        pass
    # The number of CPUs does not depend on the machine.
    assert calls == [2] * tries


def test_existing_ray_cluster_is_joined_with_our_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **how: calls.append(how))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append({}))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "as it was")
    with ray_cluster(4):
        (how,) = calls
    assert "num_cpus" not in how
    assert how["runtime_env"] == {"env_vars": ENVIRONMENT}
    assert "RAY_AUTH_MODE" not in os.environ, "that is the cluster's to say"
    assert calls[1:] == [{}]


@pytest.mark.parametrize("gpus", [0, 2])
def test_workers_are_requested_with_one_cpu_and_their_gpus(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    asked: list[Any] = []

    class Trainer:
        def __init__(self, _: Any, **how: Any) -> None:
            asked.append(how)

        def fit(self) -> Any:
            _run_here(config, tmp_path)
            return SimpleNamespace(return_value=None)

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    run_stages(
        [StageRun("run", sft.run, config)],
        tmp_path / "runs",
        Group(3, gpus_per_worker=gpus),
        Told(),
    )
    scaling = asked[0]["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu) == (3, gpus > 0)
    assert scaling.resources_per_worker == {"CPU": 1, **({"GPU": gpus} if gpus else {})}
    assert asked[0]["torch_config"].backend == ("cpu:gloo,cuda:nccl" if gpus else "gloo")


def test_gpus_without_workers_are_rejected() -> None:
    with refused(ConfigError, field="gpus_per_worker", reason="CONFLICT"):
        Group(0, gpus_per_worker=1)
    with refused(ConfigError, field="gpus_per_worker", reason="OUT_OF_RANGE", limit="at least 0"):
        Group(1, gpus_per_worker=-1)


class Groups:
    """Trainer whose groups return these results in turn; the last one runs to the end."""

    def __init__(self, work: Callable[[], None], *ends: runner._WorkerResult) -> None:
        self._work, self._ends, self.fitted = work, list(ends), 0

    def __call__(self, *_: Any, **__: Any) -> "Groups":
        return self

    def fit(self) -> Any:
        self.fitted += 1
        if self._ends:
            return SimpleNamespace(return_value=self._ends.pop(0))
        self._work()
        return SimpleNamespace(return_value=None)


def test_group_restarts_after_its_preempted_machine_is_gone(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = [[True, True], [True, True], [True, False]]
    asked: list[str] = []

    def nodes() -> list[dict[str, Any]]:
        asked.append("nodes")
        return (
            [{"NodeID": name, "Alive": alive[0][place]} for place, name in enumerate("ab")]
            if alive
            else []
        )

    def sleep(_: float) -> None:
        alive.pop(0)

    groups = Groups(
        lambda: _run_here(config, tmp_path),
        runner._WorkerResult(stopped=StoppedError(stage="sft", step=3), machines=("b",)),
    )
    monkeypatch.setattr("ray.train.torch.TorchTrainer", groups)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", nodes)
    monkeypatch.setattr(time, "sleep", sleep)
    (manifest,) = run_stages(
        [StageRun("run", sft.run, config)], tmp_path / "runs", Group(2), Told()
    )
    assert manifest.version == "straight"
    assert (groups.fitted, len(asked)) == (2, 3)


def test_stopped_driver_creates_the_stop_file_and_does_not_restart(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tells(Groups):
        def fit(self) -> Any:
            signal.raise_signal(signal.SIGTERM)
            assert (tmp_path / "runs" / STOP_FILE).exists(), "workers look for it"
            return super().fit()

    groups = Tells(lambda: None, runner._WorkerResult(stopped=StoppedError(stage="sft", step=3)))
    monkeypatch.setattr("ray.train.torch.TorchTrainer", groups)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(StoppedError) as stopped:
        run_stages([StageRun("run", sft.run, config)], tmp_path / "runs", Group(2), Told())
    assert (stopped.value.stage, stopped.value.step) == ("sft", 3)
    assert groups.fitted == 1
    assert not (tmp_path / "runs" / STOP_FILE).exists()


def _run_here(config: SftConfig, tmp_path: Path) -> None:
    with _context_here(_Task([], tmp_path), tmp_path / "runs" / "run") as context:
        sft.run(config, context)


class Interrupted(Groups):
    """Trainer that is interrupted by Ctrl-C, as Ray reports it."""

    def fit(self) -> Any:
        raise SystemExit(1)


def test_ctrl_c_during_ray_raises_keyboard_interrupt(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.train.torch.TorchTrainer", Interrupted(lambda: None))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        run_stages([StageRun("run", sft.run, config)], tmp_path / "runs", Group(2), Told())
