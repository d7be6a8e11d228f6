"""PPO or GRPO, with a verifier as the judge where no reward model is: what scores is opened in each
worker, for as long as the stage runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from training.data.examples import read_prompts
from training.manifest import Manifest
from training.rl.scores import Verifier
from training.stages import grpo, ppo
from training.stages.artifact import finished_manifest
from training.stages.context import RunContext
from training.stages.grpo import GrpoConfig
from training.stages.ppo import PpoConfig
from training.verification.checks import Calls, Programs
from training.verification.items import Item, training_items
from training.verification.rewards import TaskVerifier
from training.verification.sandbox.runs import open_sandbox
from training.verification.scorer import Scorer
from training.verification.workers import Workers


def run(config: GrpoConfig | PpoConfig, context: RunContext) -> Manifest:
    """The stage that the config is of; config.data_path: of `python -m training tasks write`, or of
    this recipe, unless a reward model scores.

    Raises:
        ExampleError: a prompt has no item, one that was changed, or one that is held out.
        VerificationError, SandboxUnavailableError: answers cannot be checked here.
    """
    if done := finished_manifest(config.output_directory):
        return done
    if config.reward_model_directory is not None:
        return _run(config, context, None)
    prompts = read_prompts(config.data_path)
    with open_scorer(training_items(prompts)) as scorer:
        return _run(config, context, TaskVerifier(prompts, scorer))


def _run(
    config: GrpoConfig | PpoConfig, context: RunContext, verifier: Verifier | None
) -> Manifest:
    if isinstance(config, GrpoConfig):
        return grpo.run(config, context, verifier)
    return ppo.run(config, context, verifier)


@contextmanager
def open_scorer(items: Sequence[Item]) -> Iterator[Scorer]:
    """What scores these items: a process for each processor, and a sandbox where one of them is
    code.
    """
    is_code = any(isinstance(item.check, Calls | Programs) for item in items)
    sandbox = open_sandbox(os.environ) if is_code else None
    with Workers(len(os.sched_getaffinity(0))) as workers:
        yield Scorer(workers, sandbox)
