"""PPO, GRPO, DPO and KTO learn the same with any split of their networks over workers.

Their states resume in other layouts.
"""

import json
from pathlib import Path

import pytest

from tests.training.stages import sampled_apart
from tests.training.stages.split_policies import write_data
from tests.training.workers import Layouts, apart, run_workers, weights
from training.artifacts.manifest import verify_manifest

# Each layout is trained once, by the first test that needs it: a minute, more on busy cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAYOUTS = Layouts(
    "tests.training.stages.split_policies:policies",
    {
        "one": (1, {}),
        "shards": (2, {"shard": 2}),
        "copies of shards": (4, {"shard": 2}),
        "shards of tensor": (4, {"shard": 2, "tensor": 2}),
    },
)
APART = "tests.training.stages.sampled_apart:sampled_apart"
FULL = ("ppo", "grpo", "dpo", "kto")
ADAPTED = tuple(f"{name}-lora" for name in FULL)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("policies")
    write_data(directory)
    LAYOUTS.train(directory)
    return directory


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "run"),
    [
        (name, run)
        for name, (_, layout) in LAYOUTS.worlds.items()
        for run in (FULL if "tensor" in layout else FULL + ADAPTED)
        if name != "one"
    ],
)
def test_every_layout_trains_like_one_process(name: str, run: str, layouts: Path) -> None:
    one, other = (LAYOUTS.figures(layouts, by, run) for by in ("one", name))
    assert {key.split()[0] for key in one} >= {"1", "2", "3"}
    assert any(key.endswith("gradient_norm") for key in one)
    assert one.keys() == other.keys()
    for key in one:
        assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), key
    assert apart(weights(layouts / "one" / run), weights(layouts / name / run)) < 1e-5
    assert apart(weights(layouts / "first"), weights(layouts / name / run)) > 1e-3
    reports = [verify_manifest(layouts / by / run).report for by in ("one", name)]
    assert reports[0].keys() == reports[1].keys()


# With an adapter policy, reference, critic and reward model are one decoder; PPO's judge has its
# own.
DECODERS = {
    "ppo": 5,
    "grpo": 2,
    "dpo": 2,
    "kto": 2,
    "ppo-lora": 2,
    "grpo-lora": 1,
    "dpo-lora": 1,
    "kto-lora": 1,
}


@pytest.mark.long
@pytest.mark.parametrize("run", FULL + ADAPTED)
def test_frozen_networks_are_split_too(run: str, layouts: Path) -> None:
    held = [
        json.loads((layouts / name / f"{run}-held.json").read_text()) for name in ("one", "shards")
    ]
    assert held == [[DECODERS[run], DECODERS[run]], [DECODERS[run], 0]]


@pytest.mark.long
@pytest.mark.parametrize(
    ("run", "before", "after"),
    [
        ("ppo", "shards of tensor", "one"),
        ("ppo-lora", "shards", "copies of shards"),
        ("grpo", "one", "shards of tensor"),
        ("dpo-lora", "one", "shards"),
        ("kto", "copies of shards", "shards"),
    ],
)
def test_a_state_resumes_in_another_layout(
    run: str, before: str, after: str, layouts: Path
) -> None:
    name = LAYOUTS.resume(layouts, run, before, after)
    whole, resumed = (LAYOUTS.figures(layouts, by, run) for by in (before, name))
    assert {key.split()[0] for key in resumed} & {"1", "2", "3"} == {"3"}
    for key in resumed:
        assert resumed[key] == pytest.approx(whole[key], rel=1e-4, abs=1e-5), key
    assert apart(weights(layouts / before / run), weights(layouts / name / run)) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("run", sampled_apart.RUNS)
def test_remote_samplers_do_not_change_training_over_shards(run: str, layouts: Path) -> None:
    """Weights of shards, full or of an adapter, are gathered once per update and sent."""
    name = "shards, sampled apart"
    if not (layouts / name).exists():
        run_workers(APART, 2, layouts, name, json.dumps({"shard": 2}))
    one, other = LAYOUTS.figures(layouts, "shards", run), LAYOUTS.figures(layouts, name, run)
    assert other == one, "the same prompts in the same rows, so to the last bit"
    assert max(other[f"{update} sampler_mismatch"] for update in (1, 2, 3)) < 1e-5
    assert apart(weights(layouts / "shards" / run), weights(layouts / name / run)) == 0


def test_tensor_parallel_adapters_and_uneven_rows_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    run_workers("tests.training.stages.split_policies:refusals", 2, tmp_path)


@pytest.mark.long
def test_workers_may_sample_different_numbers_of_tokens(tmp_path: Path) -> None:
    run_workers(
        "tests.training.stages.split_policies:uneven_samples", 2, tmp_path, timeout_seconds=120
    )


def test_one_worker_of_a_split_model_calls_the_verifier(tmp_path: Path) -> None:
    run_workers("tests.training.stages.split_policies:one_verdict", 2, tmp_path)
