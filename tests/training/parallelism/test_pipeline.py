"""Pipelines train like a single process; their checkpoints are those of the whole model."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.pipelines import configs, write_data
from tests.training.workers import Layouts, apart, require_same_report, run_workers, weights
from training.artifacts.manifest import verify_manifest
from training.errors import ConfigError
from training.parallelism.layout import Parallelism
from training.stages.pretrain_config import SampleConfig

# Each layout is trained once, by the first test that needs it: a minute, more on busy cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAYOUTS = Layouts(
    "tests.training.pipelines:stages",
    {
        "one": (1, {}),
        "two parts": (2, {"pipeline": 2}),
        "three parts": (3, {"pipeline": 3}),
        "copies of parts": (4, {"pipeline": 2}),
        "parts of shards": (4, {"pipeline": 2, "shard": 2}),
        "parts of tensor": (4, {"pipeline": 2, "tensor": 2}),
    },
)
RUNS = ("tied", "untied", "full", "adapted")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pipelines")
    write_data(directory)
    LAYOUTS.train(directory)
    return directory


def require_same(directory: Path, one: str, other: str, run: str) -> None:
    before, after = (LAYOUTS.figures(directory, name, run) for name in (one, other))
    for key in after:
        assert after[key] == pytest.approx(before[key], rel=2e-5, abs=1e-6), key
    assert apart(weights(directory / one / run), weights(directory / other / run)) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "run"),
    [
        (name, run)
        for name, (_, layout) in LAYOUTS.worlds.items()
        for run in (RUNS[:3] if "tensor" in layout else RUNS)
        if name != "one"
    ],
)
def test_every_layout_trains_like_one_process(name: str, run: str, layouts: Path) -> None:
    assert LAYOUTS.figures(layouts, "one", run).keys() == LAYOUTS.figures(layouts, name, run).keys()
    assert {"1 gradient_norm", "4 loss"} <= LAYOUTS.figures(layouts, name, run).keys()
    require_same(layouts, "one", name, run)
    one, other = (verify_manifest(layouts / by / run).report for by in ("one", name))
    require_same_report(one, other, rel=2e-5, absolute=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    ("run", "before", "after"),
    [
        ("tied", "two parts", "one"),
        ("tied", "one", "three parts"),
        ("untied", "three parts", "parts of shards"),
        ("full", "parts of tensor", "two parts"),
        ("adapted", "parts of shards", "one"),
    ],
)
def test_state_can_be_resumed_in_another_pipeline_layout(
    run: str, before: str, after: str, layouts: Path
) -> None:
    name = LAYOUTS.resume(layouts, run, before, after)
    assert {key.split()[0] for key in LAYOUTS.figures(layouts, name, run)} == {"3", "4"}
    require_same(layouts, before, name, run)


@pytest.mark.long
def test_worker_holds_its_layers_and_the_first_worker_collects_all(tmp_path: Path) -> None:
    run_workers("tests.training.pipelines:parts", 2, tmp_path)


def test_too_many_parts_and_unsupported_stages_are_rejected(
    tmp_path: Path,
) -> None:
    run_workers("tests.training.pipelines:refusals", 3, tmp_path)


def test_samples_are_rejected_before_training(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = configs(tmp_path, tmp_path, Parallelism(pipeline=2))["tied"]
    with refused(ConfigError, field="samples", reason="CONFLICT"):
        replace(config, samples=SampleConfig(("the",)))
