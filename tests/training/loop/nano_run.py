"""A run of nano's loop without servers. As a program, `nano_run.py STATE SIZE` kills itself in
PPO.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.training.fake_rollout import FakeClock
from tests.training.feedback_log import FeedbackLog
from tests.training.simulated_users import Crowd, chat_and_rate
from training.artifacts.manifest import Manifest
from training.artifacts.registry import Registry
from training.data.feedback.catalogue import Directory
from training.evaluation.canary_run import Clock, RolloutControl
from training.loop import run_loop
from training.loop_run import Feedback, LoopEnvironment
from training.recipes.nano import nano
from training.recipes.recipe import TEXTS, LoopConfig, Plan, Recipe
from training.reporting.progress import Lines
from training.rl.scores import Verifier
from training.runs import RunResult, exclusive
from training.runtime.context import Progress, RunContext
from training.stages import ppo

BASE = Path(__file__).parents[3] / "models" / "nano"
PROBES = ("sycophancy_agreement", "style_length")
PROMPTS: dict[str, list[str]] = json.loads((TEXTS / "nano_prompts.json").read_text())


def recipe(plan: Plan) -> LoopConfig:
    """Return recipe nano in this process: Ray has its own tests."""
    return replace(nano(plan), num_workers=0)


def shortened(plan: Plan) -> LoopConfig:
    """Return recipe nano with a fifth of the responses in PPO, fewer answers and fewer probes."""
    config = recipe(plan)
    sampling = replace(config.evaluation.sampling, samples_per_prompt=2)
    return replace(
        config,
        ppo=replace(
            config.ppo,
            updates=4,
            prompts_per_update=32,
            minibatch_rows=16,
            checkpoint_every_updates=2,
        ),
        evaluation=replace(config.evaluation, sampling=sampling, probe_samples=1),
        gate=replace(config.gate, tasks=PROBES),
    )


@dataclass(frozen=True)
class Size:
    """Size of a run. `thumbs`: given before the start; `killed_in`: update of PPO for the kill, the
    first after a checkpoint.
    """

    recipe: Recipe
    thumbs: int
    killed_in: int


SIZES = {
    "short": Size(shortened, thumbs=500, killed_in=3),
    "whole": Size(recipe, thumbs=1000, killed_in=6),
}


def prepare(state: Path, crowd: Crowd) -> FeedbackLog:
    """Return a state in which simulated users have rated nano-0."""
    Registry(state / "models").admit(BASE, "nano-0")
    log = FeedbackLog(state / "objects")
    chat_and_rate(BASE, log, crowd, PROMPTS["ask"])
    return log


def run_nano(
    state: Path,
    feedback: Feedback,
    rollout: RolloutControl | None = None,
    clock: Clock | None = None,
    recipe: Recipe = recipe,
    halt_reason: Callable[[], str | None] = lambda: None,
) -> RunResult:
    """Start or resume a run of nano."""
    objects = Directory(state / "objects")
    env = LoopEnvironment(
        *(state, feedback, objects, rollout, clock or FakeClock(), Lines(sys.stderr), "test"),
        halt_reason=halt_reason,
    )
    with exclusive(state / "loop", "a test"):
        return run_loop("nano", recipe, env)


def kill_in_ppo(step: int) -> None:
    """Kill this process, as kill -9 does, once PPO has reported this update."""
    run = ppo.run

    def killed(
        config: ppo.PpoConfig, context: RunContext, verifier: Verifier | None = None
    ) -> Manifest:
        def progress(told: Progress) -> None:
            context.progress(told)
            if told.step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        return run(config, replace(context, progress=progress), verifier)

    ppo.run = killed


if __name__ == "__main__":
    directory, size = Path(sys.argv[1]), SIZES[sys.argv[2]]
    kill_in_ppo(size.killed_in)
    run_nano(directory, FeedbackLog.reopen(directory / "objects"), recipe=size.recipe)
