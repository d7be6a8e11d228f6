"""A run that is asked to stop ends its step, saves the state and resumes there.

Tests cover all workers after a request to one of them, and the command.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from tests.training.rl.toy import no_autocast
from tests.training.rl.toy_preferences import toy_dpo, toy_models, toy_pairs
from tests.training.stages.pretrain_and_die import pretrain_config
from tests.training.stages.split_policies import RUNS, configs
from tests.training.toys import WORDS, ProgressList, sft_rows, toy_model, user, write_lines
from tests.training.workers import run_workers
from training.__main__ import main
from training.artifacts.manifest import Manifest, verify_manifest
from training.cluster.notice import STOP_FILE, stopped_by_signal
from training.cluster.runner import StageRun, run_stage
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism
from training.progress_log import PROGRESS, read_lines, read_progress
from training.rl.reference import WatchConfig
from training.runtime.context import Progress, RunContext, StoppedError
from training.runtime.ranks import all_different
from training.runtime.training_state import DirectoryCheckpoints, TrainingState, latest_complete
from training.stages import dpo, pretrain, sft
from training.stages.sft import SftConfig

SECONDS = 120.0


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def test_a_checkpoint_on_notice_removes_no_other_and_is_no_rollback_target(
    tmp_path: Path,
) -> None:
    kept, state = (
        DirectoryCheckpoints(tmp_path),
        TrainingState({"model": [("weight", nn.Parameter())]}, {}),
    )
    for step in (0, 5, 10, 12):
        kept.save(step, lambda into: state.write(into, {}), on_notice=step == 12)
    assert names(tmp_path) == ["notice-000012", "step-000005", "step-000010"]
    found = [kept.latest(), kept.latest(before=20), kept.latest(before=10)]
    assert [path.name for path in found if path] == ["notice-000012", "step-000010", "step-000005"]
    kept.save(13, lambda into: state.write(into, {}), on_notice=True)
    assert names(tmp_path) == ["notice-000013", "step-000005", "step-000010"]
    kept.save(15, lambda into: state.write(into, {}))
    assert names(tmp_path) == ["step-000010", "step-000015"]


def learned(directory: Path, told_at: int | None = None) -> tuple[dict[str, float], str]:
    """Return a DPO that diverges from its reference, with a measurement every four steps."""
    config = toy_dpo(
        watch=WatchConfig(prompts=16, max_response_tokens=12, kl_ceiling_nats=0.5),
        checkpoint_every_steps=4,
        epochs=8,
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )
    told = ProgressList()
    context = RunContext(
        DirectoryCheckpoints(directory),
        told,
        stop_requested=lambda: [step.step for step in told.steps][-1:] == [told_at],
    )
    return dpo.train(toy_models(), toy_pairs(128, 0.0), config, context, no_autocast)


def test_an_alarm_restores_examined_weights_not_those_saved_on_notice(
    tmp_path: Path,
) -> None:
    numbers, reason = learned(tmp_path / "straight")
    alarm_at = int(re.findall(r"\d+", reason)[0])
    assert numbers["step"] == alarm_at - 4
    with pytest.raises(StoppedError) as stopped:
        learned(tmp_path / "told", told_at=alarm_at - 1)
    assert (stopped.value.stage, stopped.value.step) == ("dpo", alarm_at - 1)
    assert learned(tmp_path / "told") == (numbers, reason)


def test_pretraining_stopped_twice_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = replace(pretrain_config(tmp_path), steps=14)
    straight = run_stage(StageRun("straight", pretrain.run, config), tmp_path / "runs")
    again = replace(config, output_directory=tmp_path / "again")
    for step, name in ((3, "notice-000003"), (10, "step-000010")):
        told = StageRun("told", _told_in(step, tmp_path / "runs" / STOP_FILE), again)
        with pytest.raises(StoppedError) as stopped:
            run_stage(told, tmp_path / "runs")
        assert (stopped.value.stage, stopped.value.step) == ("pretrain", step)
        newest = latest_complete(tmp_path / "runs" / "told")
        assert newest is not None
        assert newest.name == name
    resumed = run_stage(StageRun("told", pretrain.run, again), tmp_path / "runs")
    assert (resumed.files, resumed.report) == (straight.files, straight.report)
    taken = [line.progress.step for line in read_lines(tmp_path / "runs" / "told" / PROGRESS)]
    assert taken == list(range(1, 15)), "no step is taken twice"


def _told_in(step: int, mark: Path) -> Callable[[pretrain.PretrainConfig, RunContext], object]:
    def run(config: pretrain.PretrainConfig, context: RunContext) -> object:
        def told(progress: Progress) -> None:
            context.progress(progress)
            if progress.step == step:
                mark.touch()

        return pretrain.run(config, replace(context, progress=told))

    return run


def test_a_stop_in_the_last_step_skips_the_work_after_the_stages(
    tmp_path: Path,
) -> None:
    config = replace(pretrain_config(tmp_path), steps=2, evaluate_every_steps=None)

    def late(config: pretrain.PretrainConfig, context: RunContext) -> object:
        done = pretrain.run(config, context)
        signal.raise_signal(signal.SIGTERM)
        return done

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError) as stopped:
        run_stage(StageRun("late", late, config), tmp_path / "runs")
    assert (stopped.value.stage, stopped.value.step) == ("late", None)
    assert signal.getsignal(signal.SIGTERM) == before
    assert verify_manifest(config.output_directory).report["steps"] == 2
    assert not (tmp_path / "runs" / STOP_FILE).exists(), "the same again is not told"


def test_a_second_sigterm_has_its_default_effect(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stopped_by_signal(tmp_path / STOP_FILE):
            signal.raise_signal(signal.SIGTERM)
            assert (tmp_path / STOP_FILE).exists()
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_the_step_and_a_second_has_its_default_effect(
    number: signal.Signals, tmp_path: Path
) -> None:
    before = {
        one: signal.signal(one, signal.default_int_handler)
        for one in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with pytest.raises(StoppedError) as stopped, stopped_by_signal(tmp_path / STOP_FILE):
            signal.raise_signal(number)
            assert (tmp_path / STOP_FILE).exists()
            raise StoppedError
        assert stopped.value.stop_signal == number
        with pytest.raises(KeyboardInterrupt), stopped_by_signal(tmp_path / STOP_FILE):
            signal.raise_signal(number)
            signal.raise_signal(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with stopped_by_signal(tmp_path / STOP_FILE):
            signal.raise_signal(signal.SIGINT)
            assert not (tmp_path / STOP_FILE).exists(), "what is ignored stays so"
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Restore the handling of SIGINT: shells ignore SIGINT for background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_the_command_ends_its_step_on_ctrl_c_and_names_the_resume_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_model(tmp_path / "toy")
    data = write_lines(tmp_path / "sft.jsonl", sft_rows(64))
    asked = [
        "sft",
        "--model",
        str(tmp_path / "toy"),
        "--data",
        str(data),
        "--work",
        str(tmp_path / "work"),
    ]
    asked += [
        "--name",
        "taught",
        "--set",
        "machine.threads=1",
        "--set",
        "checkpoint_every_steps=1000",
    ]
    monkeypatch.setattr(sft, "run", partial(_interrupted, sft.run))
    assert main(asked) == 128 + signal.SIGINT
    assert stage_and_steps(capsys.readouterr().err) == ("sft", [1])
    monkeypatch.undo()
    assert main(asked) == 0
    out = capsys.readouterr().out
    steps = len(read_progress(tmp_path / "work" / "runs" / "taught" / PROGRESS))
    begun = next(line for line in out.splitlines() if "taught" in line)
    assert re.findall(r"\d+", begun)[-2:] == ["1", str(steps)], (
        "where it goes on, and to which step"
    )
    taken = [
        line.progress.step for line in read_lines(tmp_path / "work" / "runs" / "taught" / PROGRESS)
    ]
    assert taken == list(range(1, len(taken) + 1)), "no step is taken twice"


def stage_and_steps(line: str) -> tuple[str, list[int]]:
    """Return the name at the start of the only line, and the numbers in the line."""
    (line,) = line.splitlines()
    return line.partition(":")[0], [int(number) for number in re.findall(r"\d+", line)]


def _interrupted(
    run: Callable[[SftConfig, RunContext], Manifest], config: SftConfig, context: RunContext
) -> Manifest:
    def progress(step: Progress) -> None:
        context.progress(step)
        signal.raise_signal(signal.SIGINT)

    return run(config, replace(context, progress=progress))


def one_is_told(directory: Path, rank: int, world: int) -> None:
    """Request a stop from the second of two workers after its second update of GRPO."""
    config = replace(
        configs(directory, directory / "out", Parallelism(shard=2))["grpo"],
        checkpoint_every_updates=50,
    )
    told, ranks = ProgressList(), all_different(rank, world)
    context = RunContext(
        DirectoryCheckpoints(directory / "run", ranks),
        told,
        ranks,
        stop_requested=lambda: rank == 1 and told.steps[-1].step == 2,
    )
    with pytest.raises(StoppedError):
        RUNS["grpo"](config, context)
    (directory / f"{rank}.json").write_text(json.dumps([step.step for step in told.steps]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stop_of_one_worker_saves_the_same_step_on_all(tmp_path: Path) -> None:
    toy_model(tmp_path / "first")
    write_lines(
        tmp_path / "prompts.jsonl", [{"messages": user(f"{word} 1"), "task": "1"} for word in WORDS]
    )
    write_lines(tmp_path / "sft.jsonl", sft_rows(16))
    run_workers("tests.training.stages.test_stopped:one_is_told", 2, tmp_path)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [
        [1, 2],
        [1, 2],
    ]
    newest = latest_complete(tmp_path / "run")
    assert newest is not None
    assert newest.name == "notice-000002"
    assert len(list(newest.glob("*.safetensors"))) == 2, "each kept its shards"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_ends_its_step_on_sigterm_with_a_message(tmp_path: Path) -> None:
    toy_model(tmp_path / "toy")
    data = write_lines(tmp_path / "sft.jsonl", sft_rows(64))
    asked = ["sft", "--model", str(tmp_path / "toy"), "--data", str(data), "--name", "taught"]
    asked += ["--set", "machine.threads=1", "--set", "epochs=4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *asked, "--work", str(tmp_path / "work")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = tmp_path / "work" / "runs" / "taught"
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and not read_lines(run / PROGRESS):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, said
    step = read_lines(run / PROGRESS)[-1].progress.step
    assert stage_and_steps(said) == ("sft", [step])
    newest = latest_complete(run)
    assert newest is not None
    assert int(newest.name.partition("-")[2]) == step
    assert f"not finished: step {step} of " in (run / "report.html").read_text()
