"""State of training after some runs, created in a second: all files except weights."""

import io
import json
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

from tests.training.fake_rollout import FakeClock
from tests.training.feedback_log import FeedbackLog
from training.artifacts.manifest import write_manifest
from training.artifacts.registry import Registry
from training.data.feedback.catalogue import Directory
from training.evaluation.canary_run import RolloutControl
from training.loop import STEPS
from training.loop_run import LoopEnvironment, LoopRun, begin, conclude
from training.progress_log import EVENTS, SAMPLES, EventFiles, SampleLog
from training.recipes.nano import nano
from training.recipes.recipe import LoopConfig, Plan
from training.reporting.progress import Lines, ProgressReporter
from training.reporting.stage import write_stage_page
from training.runtime.context import Sample
from training.stage_record import record_start

BASE = Path(__file__).parents[2] / "models" / "nano"


def lax(plan: Plan) -> LoopConfig:
    """Return recipe nano without minimum amounts of feedback."""
    config = nano(plan)
    return replace(
        config,
        num_workers=0,
        sets=replace(config.sets, min_thumbs=1, min_pairs=0, min_held_out_pairs=0),
    )


def question(user: str) -> str:
    """Return the question of a user, which can be searched in any file."""
    return f"whispered question of {user}"


def printed_erasures(text: str) -> list[str]:
    """Return the output of `forget`: the number of erasures, and the snapshots without texts."""
    return re.findall(r"snapshot-\w+|\b\d+\b", text)


class StateFolder:
    """A state folder with its log."""

    def __init__(self, state: Path) -> None:
        self.state, self.log = state, FeedbackLog(state / "objects", sealing=True)
        self.registry = Registry(state / "models")
        self.registry.admit(BASE, "nano-0")
        self.said = io.StringIO()

    @property
    def loop(self) -> Path:
        return self.state / "loop"

    def environment(self, rollout: RolloutControl | None = None) -> LoopEnvironment:
        objects = Directory(self.state / "objects")
        return LoopEnvironment(
            self.state, self.log, objects, rollout, FakeClock(), Lines(self.said), "test"
        )

    def chat(self, *users: str, about: str = "") -> None:
        """Let each user ask some questions, like one answer, and dislike and correct another."""
        for user, number in product(users, range(6)):
            for name, up in (("good", True), ("bad", False)):
                answer = f"{user} {name} {number} {about}"
                self.log.turn(
                    answer,
                    user,
                    f"{question(user)} {number} {about}",
                    f"whispered {name} answer to {user}",
                )
                self.log.thumb(answer, user, up)
            self.log.correct(
                f"{user} bad {number} {about}", user, f"whispered correction by {user}"
            )
        self.log.commit()

    def rank(self, user: str, rater: str) -> None:
        """Let a reviewer rank the answers to a question of a user, with a whispered own answer."""
        for name in ("first", "second"):
            answer = f"whispered {name} answer to {user}"
            self.log.turn(f"{user}-{name}", user, f"{question(user)} ranked", answer)
        answers = [(f"{user}-first", 2), (f"{user}-second", 3), (f"whispered by {rater}", 1)]
        self.log.rank(f"{user}-first", user, *answers, rater=rater)
        self.log.commit()

    def begin(self, version: str) -> LoopRun:
        reporter = ProgressReporter(self.loop, Lines(self.said), version, "nano", STEPS)
        run = begin(version, "nano", lax, self.environment(), reporter)
        reporter.finish("cut off", "", None)
        return run

    def finish(self, version: str, result: str = "refused") -> LoopRun:
        """Complete a run, except for the work of Ray."""
        run = self.begin(version)
        evaluation = run.directory / f"{version}-evaluation"
        self.write_samples(evaluation)
        self.tell_samples(run)
        write_manifest(evaluation, kind="evaluation", version=evaluation.name)
        conclude(run.record, result, "win rate", run.env)
        return run

    def tell_samples(self, run: LoopRun) -> None:
        """Write samples in the folder of the stage, as PPO does."""
        stage = run.directory / "stages" / "ppo"
        stage.mkdir(parents=True)
        record_start("ppo", run.config.ppo, stage, workers=1)
        sample = Sample("ppo", 2, question("ann"), "whispered and sampled", 0.5)
        SampleLog(stage / SAMPLES).append(sample)
        with closing(EventFiles(stage / EVENTS)) as events:
            events.append_sample(sample)
        write_stage_page(stage)

    def write_samples(self, evaluation: Path) -> None:
        sets = evaluation.parent / f"{evaluation.parent.name}-sets"
        evaluation.mkdir()
        with (
            (sets / "held_out_prompts.jsonl").open() as prompts,
            (evaluation / "samples.jsonl").open("w") as samples,
        ):
            for line in prompts:
                row = {
                    **json.loads(line),
                    "before": "whispered before",
                    "after": "whispered after",
                    "win": 1,
                }
                samples.write(json.dumps(row) + "\n")


def holding(folder: Path, words: str) -> Sequence[str]:
    """Return the files that contain these bytes."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(
        str(path.relative_to(folder)) for path in paths if words.encode() in path.read_bytes()
    )
