"""The loop derives the plan of `auto` from the collected data, and keeps it when it resumes."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.fake_rollout import FakeClock, FakeRollout
from tests.training.feedback_log import FeedbackLog
from tests.training.loop.nano_run import BASE, prepare
from tests.training.simulated_users import Crowd
from training import loop
from training.__main__ import parser
from training.artifacts.manifest import read_manifest
from training.artifacts.registry import RegistryError
from training.data.feedback.catalogue import Directory
from training.errors import ConfigError
from training.loop import run_loop
from training.loop_run import LoopEnvironment, LoopRun
from training.planning.accelerators import cpu
from training.planning.collected import measure_data
from training.planning.hardware import Hardware
from training.recipes.custom.loop_recipe import adjusted_recipe
from training.reporting.progress import Lines
from training.runs import RunResult, exclusive

WORDS = ["--recipe", "auto", "--workers", "0", "--cores", "2", "--memory-gib", "8"]
# A few thumbs are enough for a plan.
FEW = ["--set", "sets.min_thumbs=1", "--set", "sets.min_pairs=0", "--set"]
FEW += ["sets.min_held_out_pairs=0"]


def add_model(state: Path, version: str) -> None:
    """Put nano into the registry under another name."""
    shutil.copytree(BASE, state / "models" / version)
    manifest = state / "models" / version / "manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "version": version}))


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    """Return a log with answers of the model `taught`, which is nano under another name."""
    add_model(tmp_path, "taught")
    log = FeedbackLog(tmp_path / "objects")
    for number in range(32):
        user, question = f"user {number % 8}", f"What colour is banana {number % 4}?"
        log.turn(f"a{number}", user, question, f"Yellow, {number}. " * 15)
        log.thumb(f"a{number}", user, number % 8 < 4)
    log.commit()
    return log


def run(state: Path, log: FeedbackLog, *more: str, rollout: FakeRollout | None = None) -> RunResult:
    options = parser().parse_args(["loop", *WORDS, *FEW, *more])
    objects, lines = Directory(state / "objects"), Lines(sys.stdout)
    env = LoopEnvironment(state, log, objects, rollout, FakeClock(), lines, "test")
    with exclusive(state / "loop", "a test"):
        return run_loop("auto", adjusted_recipe(options), env)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[LoopRun]:
    """Return the runs that began; the first one is interrupted before its steps."""
    begun: list[LoopRun] = []

    def steps(run: LoopRun) -> RunResult:
        begun.append(run)
        if len(begun) == 1:
            raise KeyboardInterrupt
        return RunResult("passed", "", "")

    monkeypatch.setattr(loop, "run_steps", steps)
    return begun


def test_the_plan_follows_the_collected_data_and_is_shown_before_training(
    tmp_path: Path, log: FeedbackLog, runs: list[LoopRun], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, log, "--set", "ppo.updates=3")
    (first,) = runs
    config, data = first.config, first.config.plan.data
    assert data == measure_data(first.sets, BASE)
    assert (data.prompts, data.is_assumed) == (len(first.sets.prompts), False)
    assert 64 < data.response.most <= config.ppo.max_response_tokens < data.response.most + 64
    assert (config.ppo.updates, config.num_workers, config.gpus_per_worker) == (3, 0, 0)
    assert config.evaluation.incumbent_directory.name == "taught"
    shown = capsys.readouterr().out
    assert f"collected data: {data.sft_examples} examples" in shown
    assert "Memory of one process at its peak" in shown
    assert "banana" not in shown

    # A resumed run keeps hardware and data, so batches are those of its checkpoints.
    run(tmp_path, log, "--set", "ppo.updates=3", "--cores", "64", "--memory-gib", "512")
    assert replace(runs[1].config, canary=config.canary) == config
    recorded = json.loads((first.directory / "config.json").read_text())["plan"]
    assert recorded["hardware"]["accelerator"]["memory_gib"] == 8


def test_a_run_that_does_not_fit_creates_no_run(
    tmp_path: Path, log: FeedbackLog, runs: list[LoopRun]
) -> None:
    with refused(ConfigError, field="ppo", reason="TOO_LARGE", limit="20 MiB"):
        run(tmp_path, log, "--memory-gib", "0.8")
    with refused(ConfigError, field="max_hours", reason="TOO_LARGE"):
        run(tmp_path, log, "--max-hours", "0.001")
    assert not list((tmp_path / "loop" / "runs").glob("*"))
    assert runs == []


def test_without_a_rollout_the_only_model_is_trained(tmp_path: Path, log: FeedbackLog) -> None:
    add_model(tmp_path, "other")
    with refused(RegistryError, field="version", reason="AMBIGUOUS"):
        run(tmp_path, log)
    shutil.rmtree(tmp_path / "models")
    with refused(RegistryError, field="version", reason="MISSING"):
        run(tmp_path, log)


def test_other_recipes_take_no_hardware() -> None:
    for words in (["--cores", "2"], ["--memory-gib", "8"], ["--max-hours", "1"]):
        options = parser().parse_args(["loop", "--recipe", "nano", *words])
        with refused(ConfigError, field=words[0].strip("-"), reason="UNSUPPORTED"):
            adjusted_recipe(options)


def test_workers_decide_the_number_of_accelerators(tmp_path: Path) -> None:
    from training.recipes.recipe import Plan

    def hardware(*more: str) -> Hardware | None:
        options = parser().parse_args(["loop", "--recipe", "auto", *more])
        return adjusted_recipe(options)(Plan("auto-1", tmp_path, BASE)).plan.hardware

    cores = ["--cores", "2", "--memory-gib", "8"]
    assert hardware("--workers", "4", *cores) == Hardware(cpu(2, 8.0), 4, narrow=False)
    elastic = hardware("--workers", "2..4", *cores)
    assert elastic == Hardware(cpu(2, 8.0), 4, fewest=2, narrow=False)
    found = hardware("--workers", "8", "--gpus-per-worker", "1", "--accelerator", "h100")
    assert (str(found), found and found.narrow) == ("8 x h100", True)


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("--set", "ppo.lora.rank=8")], ids=["full", "adapters"])
def test_a_whole_run_ends_with_a_measured_candidate(tmp_path: Path, more: tuple[str, ...]) -> None:
    log = prepare(tmp_path, Crowd(500))
    words = [
        "--set",
        "ppo.updates=4",
        "--set",
        "gate.tasks=",
        "--set",
        "evaluation.probe_samples=1",
    ]
    options = parser().parse_args(["loop", *WORDS, *words, *more])
    env = LoopEnvironment(
        *(tmp_path, log, Directory(tmp_path / "objects"), None, FakeClock(), Lines(sys.stdout), ""),
    )
    with exclusive(tmp_path / "loop", "a test"):
        result = run_loop("auto", adjusted_recipe(options), env)
    assert result.result in ("passed", "held", "refused")
    directory = tmp_path / "loop" / "runs" / "auto-1"
    candidate = read_manifest(directory / "auto-1")
    assert candidate.report["exported_update"] == 4
    assert "auto-1-sft" in candidate.parents
    rows = {row["name"] for row in json.loads((directory / "gate.json").read_text())["checks"]}
    assert {"reward model beats a coin", "win rate"} <= rows
    # Every dropped text is one of the longest percent.
    sft = read_manifest(directory / "auto-1-sft").report
    assert sft["dropped_too_long"] <= 0.02 * sft["examples"] + 1
