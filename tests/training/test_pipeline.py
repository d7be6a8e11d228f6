"""A model that is cut into parts on as many workers learns the same; its checkpoints are the whole model's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.pipelines import configs, write_data
from tests.training.workers import run_workers
from training.manifest import verify_manifest
from training.parallelism import Parallelism
from training.stages.context import ConfigError
from training.stages.pretrain import SampleConfig

# Each layout is trained once, by the first test that asks: a minute, more where cores are busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "one": (1, {}),
    "two parts": (2, {"pipeline": 2}),
    "three parts": (3, {"pipeline": 3}),
    "copies of parts": (4, {"pipeline": 2}),
    "parts of shards": (4, {"pipeline": 2, "shard": 2}),
    "parts of tensor": (4, {"pipeline": 2, "tensor": 2}),
}
RUN = "tests.training.pipelines:stages"
RUNS = ("tied", "untied", "full", "adapted")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pipelines")
    write_data(directory)
    for name, (world, layout) in LAYOUTS.items():
        run_workers(RUN, world, directory, name, json.dumps(layout))
    return directory


def figures(directory: Path, name: str, run: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((directory / name / f"{run}.json").read_text())
    return found


def weights(directory: Path, name: str, run: str) -> dict[str, torch.Tensor]:
    return load_file(directory / name / run / "model.safetensors")


def require_same(directory: Path, one: str, other: str, run: str) -> None:
    before, after = figures(directory, one, run), figures(directory, other, run)
    for key in after:
        assert after[key] == pytest.approx(before[key], rel=2e-5, abs=1e-6), key
    whole, cut = weights(directory, one, run), weights(directory, other, run)
    assert whole.keys() == cut.keys()
    assert max(float((whole[key] - cut[key]).abs().max()) for key in whole) < 1e-5


@pytest.mark.parametrize(
    ("name", "run"),
    [
        (name, run)
        for name, (_, layout) in LAYOUTS.items()
        for run in (RUNS[:3] if "tensor" in layout else RUNS)
        if name != "one"
    ],
)
def test_every_layout_learns_as_one_process(name: str, run: str, layouts: Path) -> None:
    assert figures(layouts, "one", run).keys() == figures(layouts, name, run).keys()
    assert {"1 gradient_norm", "4 loss"} <= figures(layouts, name, run).keys()
    require_same(layouts, "one", name, run)
    one, other = (verify_manifest(layouts / by / run).report for by in ("one", name))
    assert other == pytest.approx(one, rel=2e-5, abs=1e-6)


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
def test_a_state_of_one_layout_is_resumed_in_another(run: str, before: str, after: str, layouts: Path) -> None:
    name, kept = f"{before} then {after}", "step-000002"
    shutil.copytree(layouts / before / f"{run}-run" / kept, layouts / name / f"{run}-run" / kept)
    world, layout = LAYOUTS[after]
    run_workers(RUN, world, layouts, name, json.dumps(layout), run)
    assert {key.split()[0] for key in figures(layouts, name, run)} == {"3", "4"}
    require_same(layouts, before, name, run)


def test_a_worker_holds_its_own_layers_and_the_first_gets_all_back(tmp_path: Path) -> None:
    run_workers("tests.training.pipelines:parts", 2, tmp_path)


def test_more_parts_than_layers_and_stages_that_need_all_of_them_are_refused(tmp_path: Path) -> None:
    run_workers("tests.training.pipelines:refusals", 3, tmp_path)


def test_samples_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = configs(tmp_path, tmp_path, Parallelism(pipeline=2))["tied"]
    with pytest.raises(ConfigError, match="samples: a token runs through all layers"):
        replace(config, samples=SampleConfig(("the",)))
