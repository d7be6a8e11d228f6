"""The whole loop with nano, and its controls: random thumbs and a degraded version."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean

import pytest

from sequential.figures import VersionFigures
from tests.support.errors import refused
from tests.training.fake_rollout import FakeClock, FakeRollout
from tests.training.feedback_log import FeedbackLog
from tests.training.loop import nano_run
from tests.training.loop.nano_run import BASE, PROBES, PROMPTS, SIZES, prepare, run_nano
from tests.training.simulated_users import Crowd, likings, preferred_share, says
from training.artifacts.registry import Registry, VersionStage
from training.artifacts.scores import ScoreStore
from training.cluster.runner import StageRun, run_stage
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import Erasure
from training.data.feedback.rows import DataKey
from training.erasure import apply_erasures
from training.evaluation.canary import CanaryConfig, Verdict
from training.evaluation.canary_run import serve_canary
from training.loop_run import NotEnoughFeedbackError
from training.optim.optimizers import OptimizerConfig
from training.progress_log import read_progress
from training.runtime.context import Lineage, Machine
from training.stages import sft

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# Required win rate of the promoted version over the first on held-out prompts; measured: 0.88,
# short 0.75
GOAL = 0.65
ROOT = Path(__file__).parents[3]


class Feedback:
    """The committed log, and thumbs for the arms: ten for each per count."""

    def __init__(self, log, models: dict[str, Path]) -> None:
        self._log, self._models = log, models
        self._thumbs: dict[str, Iterator[bool]] = {}
        self._counts: dict[str, list[int]] = {version: [0, 0] for version in models}

    def feedback_segments(self) -> list[Segment]:
        return self._log.feedback_segments()

    def turn_segments(self) -> list[Segment]:
        return self._log.turn_segments()

    def data_keys(self, principals: Sequence[str]) -> dict[str, DataKey]:
        return self._log.data_keys(principals)

    def erasures(self, after: int) -> Sequence[Erasure]:
        return self._log.erasures(after)

    def version_feedback(
        self, versions: Sequence[str], since: datetime
    ) -> dict[str, VersionFigures]:
        for version, model in self._models.items():
            if version not in self._thumbs:
                self._thumbs[version] = iter(says(model, PROMPTS["ask"], seed=5, count=2000))
            for _ in range(10):
                self._counts[version][0 if next(self._thumbs[version]) else 1] += 1
        return {
            version: VersionFigures(user_shares={1.0: up, 0.0: down})
            for version, (up, down) in self._counts.items()
        }


@pytest.mark.parametrize("size", ["short", pytest.param("whole", marks=pytest.mark.long)])
def test_thumbs_improve_the_model_even_after_a_kill_in_ppo(tmp_path: Path, size: str) -> None:
    killed_in = SIZES[size].killed_in
    log = prepare(tmp_path, Crowd(SIZES[size].thumbs, seed=1))
    assert ended_by(nano_run.__name__, str(tmp_path), size) == -signal.SIGKILL
    steps = tmp_path / "loop" / "runs" / "nano-1" / "stages" / "ppo" / "progress.jsonl"
    assert [progress.step for progress in read_progress(steps)] == list(range(1, killed_in + 1))
    trained_before = (steps.parents[2] / "nano-1-sft" / "manifest.json").stat().st_mtime_ns

    models = {"nano-0": BASE, "nano-1": tmp_path / "models" / "nano-1"}
    clock = FakeClock()
    rollout = FakeRollout(clock)
    result = run_nano(tmp_path, Feedback(log, models), rollout, clock, SIZES[size].recipe)

    assert result.result == "promoted", result.reason
    assert rollout.stable == "nano-1"
    assert (steps.parents[2] / "nano-1-sft" / "manifest.json").stat().st_mtime_ns == trained_before
    written = [json.loads(line)["step"] for line in steps.read_text().splitlines()]
    assert written[killed_in] == killed_in  # resumed from the previous checkpoint
    found, before = (likings(model, PROMPTS["held_out"]) for model in (models["nano-1"], BASE))
    assert preferred_share(found, before) >= GOAL
    assert fmean(found) > fmean(before) + 0.1
    stages = [event.stage for event in Registry(tmp_path / "models").history()]
    assert stages == [
        VersionStage.CANDIDATE,
        VersionStage.GATED,
        VersionStage.CANARY,
        VersionStage.PROMOTED,
    ]
    verdict = json.loads((tmp_path / "loop" / "runs" / "nano-1" / "gate.json").read_text())
    rows = {check["name"]: check for check in verdict["checks"]}
    assert verdict["verdict"] == "passed"
    for task in PROBES:
        assert rows[task]["passed"]
        assert rows[task]["figures"]["items"] >= 60
        for version in models:
            assert task in ScoreStore(tmp_path / "loop").scores(version)
    report = (tmp_path / "loop" / "runs" / "nano-1" / "report.html").read_text()
    assert "sycophancy agreement" in report
    assert "promoted" in report
    assert "<script" not in report
    assert "http" not in report.replace("http-equiv", "")
    with refused(NotEnoughFeedbackError, field="snapshot", reason="DUPLICATE"):
        run_nano(tmp_path, Feedback(log, models), rollout, clock)
    assert_forgets(log, tmp_path)


def assert_forgets(log: FeedbackLog, state: Path) -> None:
    """Check that after the erasure of a user no file of the run has texts of that user."""
    (snapshot,) = (state / "loop" / "snapshots").glob("snapshot-*")
    rows = [json.loads(line) for line in (snapshot / "judgements.jsonl").read_text().splitlines()]
    log.ledger.append(Erasure(1, rows[0]["principal"], "erasure"))
    kept = [state / "loop", state / "models" / "nano-1"]
    apply_erasures(log, state / "loop", Registry(state / "models"))
    for folder in kept:
        # Tensors are numbers, and to look for thousands of texts in all their bytes took a quarter
        # of the test.
        files = (
            path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"
        )
        everything = b"\n".join(path.read_bytes() for path in files)
        said = {
            text
            for row in rows
            for text in (row["answer"], row["principal"], row["context"][-1]["content"])
        }
        assert [text for text in said if len(text) > 8 and text.encode() in everything] == []


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))]
)
def test_random_thumbs_promote_nothing(tmp_path: Path, seed: int) -> None:
    size = SIZES["short"]
    log = prepare(tmp_path, Crowd(size.thumbs, seed=seed, shuffled=True))
    result = run_nano(tmp_path, log, recipe=size.recipe)
    # Held if an accuracy happens to be above 0.5.
    assert result.result in ("refused", "held")
    gate = json.loads((tmp_path / "loop" / "runs" / "nano-1" / "gate.json").read_text())
    failed = {check["name"] for check in gate["checks"] if not check["passed"]}
    assert failed & {"reward model beats a coin", "judge beats a coin", "label noise"}
    steps = {
        step["name"]: step
        for step in json.loads((tmp_path / "loop" / "status.json").read_text())["steps"]
    }
    assert (steps["health"]["state"], steps["ppo"]["state"]) == ("done", "skipped")
    assert re.fullmatch(
        r"reward model 0\.\d{3} ± 0\.\d{3}, judge 0\.\d{3} ± 0\.\d{3}", steps["health"]["detail"]
    )
    assert not (tmp_path / "models" / "nano-1").exists()


def test_a_degraded_version_is_rolled_back_automatically(tmp_path: Path) -> None:
    worse = made_worse(tmp_path)
    clock = FakeClock()
    rollout = FakeRollout(clock)
    feedback = Feedback(None, {"nano-0": BASE, "nano-1": worse})
    config = CanaryConfig(share=0.5, poll_seconds=5, lease_seconds=60, max_seconds=1000, steps=())
    end = serve_canary(
        "nano-1", worse, config, rollout, feedback, clock, tmp_path / "canary", lambda *_: None
    )
    assert end.verdict is Verdict.ROLL_BACK
    assert end.last is not None
    assert end.last.verdict is Verdict.ROLL_BACK  # by the thumbs, not by the time limit
    assert rollout.stable == "nano-0"


def made_worse(directory: Path) -> Path:
    """Return nano-0 after training on grumpy answers."""
    rows = [
        {
            "messages": [{"role": "user", "content": asked}],
            "response": "Not this again. Ask somebody else.",
        }
        for asked in PROMPTS["ask"]
    ]
    data = directory / "grumpy.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = sft.SftConfig(
        model_directory=BASE,
        data_path=data,
        output_directory=directory / "worse",
        lineage=Lineage("nano-1"),
        epochs=5,
        max_tokens=256,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        machine=Machine(threads=1),
    )
    run_stage(StageRun("worse", sft.run, config), directory / "stages")
    return directory / "worse"


def ended_by(module: str, *arguments: str) -> int:
    """Return the exit status of the module in a separate process."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, check=False
    ).returncode
