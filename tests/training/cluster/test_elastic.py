"""Elastic workers: valid ranges, and the loss of a machine during a run."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.cluster.runs import sft_config
from tests.training.toys import sft_rows, toy_model, write_lines
from training.__main__ import parser
from training.artifacts.manifest import Manifest, verify_manifest
from training.cluster import group
from training.cluster.group import (
    ADDRESS,
    ENVIRONMENT,
    OWN_ENVIRONMENT,
    Group,
    parse_workers,
    ray_cluster,
    require_ray,
    trainer,
)
from training.cluster.runner import StageRun, run_stage, run_stages
from training.errors import ConfigError
from training.parallelism.layout import Parallelism, arrange
from training.progress_log import read_lines, read_progress
from training.recipes.custom.loop_recipe import adjusted_recipe
from training.recipes.nano import nano
from training.recipes.recipe import Plan
from training.runtime.context import Progress, RunContext, require_divisible
from training.runtime.ranks import ALONE, Ranks, all_different
from training.stages import sft
from training.stages.sft import SftConfig

LOST_AFTER_STEP = 5


def test_range_of_workers_is_parsed() -> None:
    assert parse_workers("4") == (4, None)
    assert parse_workers("1..4") == (4, 1)
    assert list(Group(4, fewest_workers=2).sizes) == [2, 3, 4]
    assert list(Group(4).sizes) == [4]
    assert list(Group().sizes) == [1]


@pytest.mark.parametrize("fewest", [0, 5])
def test_invalid_range_is_rejected(fewest: int) -> None:
    with refused(ConfigError, field="workers", reason="OUT_OF_RANGE", limit="in [1, 4]"):
        Group(4, fewest_workers=fewest)


def test_range_with_rollout_actors_is_rejected() -> None:
    with refused(ConfigError, field="rollout_actors", reason="UNSUPPORTED"):
        Group(4, rollout_actors=1, fewest_workers=1)


def test_rows_indivisible_by_a_size_in_the_range_are_rejected() -> None:
    require_divisible({"batch_rows": 12}, all_different(0, 4, range(1, 5)))
    with refused(ConfigError, field="batch_rows", reason="OUT_OF_RANGE", limit="a multiple of 3"):
        require_divisible({"batch_rows": 8}, all_different(0, 4, range(1, 5)))
    with refused(ConfigError, field="batch_rows", reason="OUT_OF_RANGE", limit="a multiple of 4"):
        require_divisible({"batch_rows": 6}, all_different(0, 4))
    # Two workers hold one model together, so they read the same rows.
    require_divisible({"batch_rows": 4}, Ranks(0, 4, 0, 2, world_sizes=[2, 4]))
    with refused(ConfigError, field="parallelism", reason="OUT_OF_RANGE", limit="a divisor of 1"):
        arrange(Parallelism(shard=2), replace(ALONE, world_size=2, world_sizes=[1, 2]))


def test_run_with_indivisible_rows_is_rejected_before_its_start(tmp_path: Path) -> None:
    config = nano(Plan("nano-1", tmp_path / "run", tmp_path / "nano-0"))
    assert list(replace(config, num_workers=2, fewest_workers=1).group.sizes) == [1, 2]
    with refused(ConfigError, reason="OUT_OF_RANGE", limit="a multiple of 3"):
        replace(config, num_workers=4, fewest_workers=1)


def test_command_line_sets_workers_and_actors(tmp_path: Path) -> None:
    def asked(*more: str) -> Group:
        options = parser().parse_args(["loop", "--recipe", "nano", *more])
        return adjusted_recipe(options)(Plan("nano-1", tmp_path / "run", tmp_path / "nano-0")).group

    assert asked() == Group(1)
    assert asked("--workers", "1..2") == Group(2, fewest_workers=1)
    assert asked("--workers", "2", "--rollout-actors", "3") == Group(2, rollout_actors=3)


@pytest.mark.parametrize(
    ("gpus", "address", "words", "expected"),
    [
        (1, "", (), 1),
        (8, "", ("--workers", "4"), 1),
        (1, "", ("--workers", "2"), 0),
        (1, "", ("--workers", "0"), 0),
        (1, "", ("--gpus-per-worker", "0"), 0),
        (1, "", ("--device", "cpu"), 0),
        (0, "", (), 0),
        (1, "head:6379", (), 0),
    ],
)
def test_run_uses_the_gpus_of_its_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    address: str,
    words: tuple[str, ...],
    expected: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv(ADDRESS, address)
    options = parser().parse_args(["loop", "--recipe", "nano", *words])
    config = adjusted_recipe(options)(Plan("nano-1", tmp_path / "run", tmp_path / "nano-0"))
    assert config.group.gpus_per_worker == expected


def test_missing_ray_is_named_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "find_spec", lambda _: None)
    require_ray(0)
    with refused(ConfigError, field="workers", reason="MISSING", limit="0 without ray"):
        require_ray(2)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with (
        refused(ConfigError, field="workers", reason="MISSING", limit="0 without ray"),
        ray_cluster(1),
    ):
        raise AssertionError("Ray was not checked")


def test_preemptions_are_no_failures_and_ray_gets_the_range(tmp_path: Path) -> None:
    prepared = trainer(
        Group(4, fewest_workers=2, max_failures=5), lambda _: None, None, "run", tmp_path
    )
    failures, scaling = prepared.run_config.failure_config, prepared.scaling_config
    assert (failures.max_failures, failures.max_preemption_failures) == (5, -1)
    assert (scaling.min_workers, scaling.max_workers) == (2, 4)
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in ENVIRONMENT, (
        "clusters take machines away with notice"
    )


def learn_until_lost(config: SftConfig, context: RunContext) -> Manifest:
    """Train until the machine is lost, then wait."""

    def progress(step: Progress) -> None:
        context.progress(step)
        if step.step == LOST_AFTER_STEP and context.ranks.world_size == 2:
            time.sleep(120)  # the group is ended in the meantime

    return sft.run(config, replace(context, progress=progress))


class LosesMachine:
    """Watcher that removes one of two machines after a step."""

    def __init__(self, cluster: Cluster, machine: object) -> None:
        self._cluster, self._machine = cluster, machine

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None:
        if progress.step == LOST_AFTER_STEP and self._machine is not None:
            machine, self._machine = self._machine, None
            self._cluster.remove_node(machine, allow_graceful=False)

    def end(self, name: str) -> None: ...


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Ray about its own settings
def test_group_continues_with_fewer_workers_after_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model(tmp_path / "first")
    write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    for name, value in {**ENVIRONMENT, **OWN_ENVIRONMENT, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    run_stage(StageRun("straight", sft.run, sft_config(tmp_path, "straight")), tmp_path / "runs")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        machine = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        group = Group(2, fewest_workers=1)
        run = StageRun("elastic", learn_until_lost, sft_config(tmp_path, "elastic"))
        run_stages([run], tmp_path / "runs", group, LosesMachine(cluster, machine))
    finally:
        ray.shutdown()
        cluster.shutdown()
    lines = read_lines(tmp_path / "runs" / "elastic" / "progress.jsonl")
    taken = [(line.progress.step, line.effort.workers) for line in lines]
    assert taken == [
        *((step, 2) for step in range(1, 6)),
        *((step, 1) for step in range(5, 11)),
    ]  # resumed from the checkpoint of step 4
    straight, elastic = (
        read_progress(tmp_path / "runs" / name / "progress.jsonl")
        for name in ("straight", "elastic")
    )
    assert [step.step for step in elastic] == [step.step for step in straight]
    assert [step.metrics["loss"] for step in elastic] == pytest.approx(
        [s.metrics["loss"] for s in straight], rel=1e-5
    )
    one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("straight", "elastic")
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert verify_manifest(tmp_path / "elastic").kind == "model"
