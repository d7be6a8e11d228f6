"""PPO or GRPO with a verifier, instead of a reward model or beside it.

Each worker opens the scorer for the duration of the stage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.examples import read_prompts
from training.rl.scores import Verifier
from training.runtime.context import RunContext
from training.stages import grpo, ppo
from training.stages.policy_config import GrpoConfig, PpoConfig
from training.verification.checks import Calls, Programs
from training.verification.items import Item, training_items
from training.verification.sandbox.runs import open_sandbox
from training.verification.scorer import Scorer, TaskVerifier
from training.verification.workers import Workers


def run(config: GrpoConfig | PpoConfig, context: RunContext) -> Manifest:
    """Run the stage of this config.

    The file of tasks is from `thumbwheel train tasks write` or this recipe. It is config.data_path,
    or with a reward model that of config.verifiable, if any.

    Raises:
        ExampleError: a prompt has no item, a changed item, or a held-out item.
        VerificationError, SandboxUnavailableError: answers cannot be checked on this machine.
    """
    if done := finished_manifest(config.output_directory):
        return done
    path = config.data_path if config.verifiable is None else config.verifiable.data_path
    if config.verifiable is None and config.reward_model_directory is not None:
        return _run(config, context, None)
    prompts = read_prompts(path, config.allow_extra_fields)
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
    """Open the scorer of these items.

    It has a process per CPU, and a sandbox if an item is code.
    """
    is_code = any(isinstance(item.check, Calls | Programs) for item in items)
    sandbox = open_sandbox(os.environ) if is_code else None
    with Workers(len(os.sched_getaffinity(0))) as workers:
        yield Scorer(workers, sandbox)
