"""Models split over workers train like a single process: losses, gradient norms, weights, samples.

Checkpoints can be resumed in another layout.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.layouts import NORMS_HEADS
from tests.training.rl.toy import toy_decoder
from tests.training.stages.rows import pair_rows
from tests.training.toys import sft_rows, toy_model, write_lines
from tests.training.workers import require_same_report, run_workers
from training.artifacts.manifest import verify_manifest
from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.lora import LoraConfig, add_adapter
from training.parallelism.layout import Parallelism, arrange, check_divisible, whole_weights
from training.runtime.ranks import ALONE, all_different

# Each layout is trained once, by the first test that needs it: a minute, more on busy cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "one": (1, {}),
    "copies": (2, {}),
    "shards": (2, {"shard": 2}),
    "tensor": (2, {"tensor": 2}),
    "copies of shards": (4, {"shard": 2}),
    "shards of tensor": (4, {"shard": 2, "tensor": 2}),
}
# With tensor parallelism, each worker's part of a product is rounded before the sum.
BFLOAT16_TOLERANCE = {"shards": 2**-8, "copies of shards": 2**-7, "shards of tensor": 2**-6}
TRAIN, STAGES = "tests.training.layouts:train", "tests.training.layouts:stages"
FAMILIES = "tests.training.layouts:families"


def figures(directory: Path, name: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((directory / f"{name}.json").read_text())
    return found


def require_same(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert other[key] == pytest.approx(one[key], rel=2e-5, abs=1e-6), key


@pytest.mark.long
def test_head_norms_get_the_gradients_of_all_workers(tmp_path: Path) -> None:
    """Every worker applies the same gradient; each worker asserts this."""
    for name in ("one", "tensor", "shards of tensor"):
        world, layout = LAYOUTS[name]
        run_workers(FAMILIES, world, tmp_path, name, json.dumps(layout))
        for family in NORMS_HEADS:
            one, other = (figures(tmp_path, f"{family} {made}") for made in ("one", name))
            assert one["gradient of model.layers.0.self_attn.q_norm.weight"] > 1e-4
            require_same(one, other)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layouts")
    for name, (world, layout) in LAYOUTS.items():
        run_workers(TRAIN, world, directory, name, json.dumps(layout))
    return directory


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "one"])
def test_every_layout_trains_like_one_process(name: str, layouts: Path) -> None:
    require_same(figures(layouts, "one"), figures(layouts, name))


@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "after"), [("shards of tensor", "one"), ("one", "shards"), ("shards", "tensor")]
)
def test_checkpoint_can_be_resumed_in_another_layout(
    before: str, after: str, layouts: Path
) -> None:
    world, layout = LAYOUTS[after]
    run_workers(TRAIN, world, layouts, f"{before} then {after}", json.dumps(layout), before)
    whole, resumed = figures(layouts, before), figures(layouts, f"{before} then {after}")
    assert "loss 1" not in resumed
    for key in resumed:
        assert resumed[key] == pytest.approx(whole[key], rel=2e-5, abs=1e-6), key


@pytest.mark.long
def test_checkpoint_resumed_in_its_own_layout_is_bit_identical(layouts: Path) -> None:
    run_workers(TRAIN, 2, layouts, "shards again", json.dumps({"shard": 2}), "shards")
    whole, resumed = figures(layouts, "shards"), figures(layouts, "shards again")
    assert all(resumed[key] == whole[key] for key in resumed)


@pytest.mark.long
@pytest.mark.parametrize("name", ["shards", "tensor"])
def test_stages_write_the_same_as_one_process(name: str, whole_stages: Path) -> None:
    world, layout = LAYOUTS[name]
    run_workers(STAGES, world, whole_stages, name, json.dumps(layout))
    for made in ("full", "reward") if name == "tensor" else ("full", "adapted", "reward"):
        one, other = (verify_manifest(whole_stages / by / made).report for by in ("one", name))
        require_same_report(one, other, rel=1e-4, absolute=1e-5)
        weights = [
            load_file(whole_stages / by / made / "model.safetensors") for by in ("one", name)
        ]
        assert weights[0].keys() == weights[1].keys()
        assert (
            max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]) < 1e-5
        )


@pytest.fixture(scope="module")
def whole_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("stages")
    toy_model(directory / "first")
    write_lines(directory / "sft.jsonl", sft_rows(32))
    write_lines(directory / "pairs.jsonl", pair_rows(32, noise=0.0))
    run_workers(STAGES, 1, directory, "one", "{}")
    return directory


@pytest.mark.long
@pytest.mark.parametrize("name", ["shards", "copies of shards", "shards of tensor"])
def test_bfloat16_shards_train_like_one_process_with_autocast(name: str, layouts: Path) -> None:
    """Compare bfloat16 shards with autocast in a single process.

    Both round the same weights and the same sums of products. Only the order of the sums differs,
    with 2 workers and half of the rows each.
    """
    for made in ("one", name):
        world, layout = LAYOUTS[made]
        if not (layouts / f"narrow {made}.json").exists():
            run_workers(
                TRAIN, world, layouts, f"narrow {made}", json.dumps(layout | {"narrow": True})
            )
    one, other, wide = (figures(layouts, made) for made in ("narrow one", f"narrow {name}", name))
    for key in (key for key in one if key.startswith(("loss", "norm"))):
        assert other[key] == pytest.approx(one[key], rel=BFLOAT16_TOLERANCE[name]), key
    assert any(other[key] != pytest.approx(wide[key], rel=2e-5) for key in one)


@pytest.mark.long
@pytest.mark.parametrize("name", ["shards", "copies of shards", "shards of tensor"])
def test_matrices_are_gathered_in_bfloat16_but_in_fp32_for_sampling(
    name: str, tmp_path: Path
) -> None:
    world, layout = LAYOUTS[name]
    run_workers("tests.training.layouts:gathers", world, tmp_path, json.dumps(layout))


def test_layout_that_does_not_divide_the_workers_is_rejected() -> None:
    with refused(ConfigError, field="parallelism", reason="OUT_OF_RANGE", limit="a divisor of 6"):
        arrange(Parallelism(shard=2, tensor=2), all_different(0, 6))
    with refused(ConfigError, field="shard", reason="OUT_OF_RANGE", limit="at least 1"):
        Parallelism(shard=0)


def test_indivisible_heads_are_rejected_by_name() -> None:
    limit = "a divisor of num_key_value_heads, 2"
    with refused(ConfigError, field="parallelism.tensor", reason="OUT_OF_RANGE", limit=limit):
        check_divisible(toy_decoder().config, 4)


def test_adapters_are_rejected_with_tensor_parallelism(tmp_path: Path) -> None:
    run_workers("tests.training.layouts:split_with_adapter", 2, tmp_path)


@pytest.mark.long
def test_recomputation_over_shards_gives_the_same_gradients(tmp_path: Path) -> None:
    run_workers("tests.training.layouts:recomputed", 2, tmp_path)


def test_whole_weights_are_copies_of_trained_weights() -> None:
    decoder = toy_decoder()
    weights = whole_weights(decoder, ALONE)
    assert list(weights) == [name for name, _ in decoder.named_parameters()]
    before = {name: weight.clone() for name, weight in weights.items()}
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(weights[name], before[name]) for name in before)
    add_adapter(decoder, "policy", LoraConfig(rank=2), seed=1)
    assert all(
        "adapters.policy" in name for name in whole_weights(Backbone(decoder, "policy"), ALONE)
    )
    assert whole_weights(decoder, all_different(1, 2)) == {}
