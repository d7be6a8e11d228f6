"""Requirements of a run of the loop, checked before its data are read and models are trained."""

from __future__ import annotations

import os
from importlib.util import find_spec

from training.benchmarks.data import DATA_LOCK
from training.benchmarks.tasks import BENCHMARKS, CODE
from training.cluster.group import require_ray
from training.data.examples import read_prompts
from training.data.packages import DataError, home_of, installed
from training.errors import ConfigError
from training.probes.items import Kind
from training.probes.measurement import tasks as probe_tasks
from training.recipes.names import check_model_size
from training.recipes.recipe import LoopConfig
from training.verification.checks import Calls, Programs
from training.verification.items import training_items
from training.verification.sandbox.bubblewrap import SandboxUnavailableError
from training.verification.sandbox.runs import open_sandbox


def check_requirements(config: LoopConfig) -> None:
    """Check the requirements of a run besides its feedback: workers, size of the model, tasks.

    Raises:
        ConfigError: something is missing; `field` is the setting that needs it.
        ExampleError: a task of the last stage is malformed or held out.
    """
    require_ray(config.num_workers)
    check_model_size(config.name, config.plan.incumbent_directory, config.max_model_bytes)
    _check_tasks(config)
    _check_verifiable(config)


def _check_tasks(config: LoopConfig) -> None:
    """Check before training that the loop can measure the tasks of the gate.

    Packages, items and the model server for benchmarks, and the sandbox for code, are needed only
    with such tasks, so they may be missing.

    Raises:
        ConfigError: a task is unknown, packages or items are missing, or the sandbox does not work.
    """
    tasks = config.gate.tasks
    known = {*probe_tasks(), *BENCHMARKS}
    if unknown := [task for task in tasks if task not in known]:
        raise ConfigError(
            f"gate.tasks: {', '.join(unknown)} unknown",
            field="gate.tasks",
            reason="UNKNOWN",
            limit=", ".join(sorted(known)),
        )
    if programs := [task for task in tasks if task in (*CODE, Kind.KNOWLEDGE)]:
        try:
            open_sandbox(os.environ)
        except SandboxUnavailableError as error:
            raise ConfigError(
                f"gate.tasks: {', '.join(programs)} run code: {error}",
                field="gate.tasks",
                reason="MISSING",
            ) from error
    benchmarks = [task for task in tasks if task in BENCHMARKS]
    groups = {"evaluation": "lm_eval", "predictor": "openvino_genai"}
    missing = [group for group, package in groups.items() if find_spec(package) is None]
    if benchmarks and missing:
        raise ConfigError(
            f"gate.tasks: {', '.join(benchmarks)} need the dependency groups {', '.join(missing)}",
            field="gate.tasks",
            reason="MISSING",
        )
    if not benchmarks:
        return
    try:
        installed(DATA_LOCK)
    except DataError as error:
        raise ConfigError(
            f"gate.tasks: the items of {', '.join(benchmarks)} are missing: {error}. They may also "
            f"be copied to {home_of(DATA_LOCK)}",
            field="gate.tasks",
            reason="MISSING",
        ) from error


def _check_verifiable(config: LoopConfig) -> None:
    """Check before training that the tasks of the last stage can be read and verified.

    Raises:
        ConfigError: the file is missing, or the sandbox for tasks with code does not work.
        ExampleError: a task is malformed or held out.
    """
    mix = config.ppo.verifiable
    if mix is None:
        return
    if not mix.data_path.is_file():
        raise ConfigError(
            f"ppo.verifiable.data_path: {mix.data_path} does not exist",
            field="ppo.verifiable.data_path",
            reason="MISSING",
        )
    items = training_items(read_prompts(mix.data_path))
    if any(isinstance(item.check, Calls | Programs) for item in items):
        try:
            open_sandbox(os.environ)
        except SandboxUnavailableError as error:
            raise ConfigError(
                f"ppo.verifiable: {mix.data_path.name} has tasks that run code: {error}",
                field="ppo.verifiable",
                reason="MISSING",
            ) from error
