"""One turn of nano's loop without servers: python nano_turn.py STATE. Tests call it, and kill it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from tests.training.feedback_log import FeedbackLog
from tests.training.people import Crowd, chat_and_rate
from tests.training.rollouts import FakeClock
from training.data.catalogue import Directory
from training.evaluation.trial import Clock, Rollout
from training.loop import Feedback, Surroundings, run_loop
from training.progress import Lines
from training.recipes.nano import nano
from training.recipes.recipe import TEXTS, LoopConfig, Plan
from training.registry import Registry
from training.runs import RunResult, exclusive

BASE = Path(__file__).parents[3] / "models" / "nano"
PROMPTS: dict[str, list[str]] = json.loads((TEXTS / "nano_prompts.json").read_text())


def recipe(plan: Plan) -> LoopConfig:
    """Recipe nano in this process: Ray has tests of its own."""
    return replace(nano(plan), num_workers=0)


def prepare(state: Path, crowd: Crowd) -> FeedbackLog:
    """A state whose people have rated nano-0."""
    Registry(state / "models").admit(BASE, "nano-0")
    log = FeedbackLog(state / "objects")
    chat_and_rate(BASE, log, crowd, PROMPTS["ask"])
    return log


def turn(state: Path, feedback: Feedback, rollout: Rollout | None = None, clock: Clock | None = None) -> RunResult:
    """Run or resume a turn."""
    objects = Directory(state / "objects")
    around = Surroundings(state, feedback, objects, rollout, clock or FakeClock(), Lines(sys.stderr), "test")
    with exclusive(state / "loop", "a test"):
        return run_loop("nano", recipe, around)


if __name__ == "__main__":
    turn(Path(sys.argv[1]), FeedbackLog.reopen(Path(sys.argv[1]) / "objects"))
