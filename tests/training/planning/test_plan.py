"""Plans of stages: valid layouts, rejected ones, and advice."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.support.errors import refused
from tests.training.planning.stages import GRPO, PPO, SFT, stage
from training.errors import ConfigError
from training.model.config import llama_json, parse_config
from training.model.lora import LoraConfig
from training.planning.accelerators import ACCELERATORS, GIB
from training.planning.plan import StagePlan, fitting_layouts, plan_recipe, plan_stage
from training.recipes.open_models.recipes import shape

H100, L4 = ACCELERATORS["h100"], ACCELERATORS["l4"]
ROOMY = replace(H100, memory_gib=1000)
SMALL, LLAMA = parse_config(llama_json(1000, 64, 2, 4, 2, 128)), shape("llama-3.1-8b")
LONG = replace(SFT, batch_rows=64, microbatch_rows=2)


def named_in(text: str, plans: Iterable[StagePlan]) -> list[StagePlan]:
    """Return the plans whose layout is in the text."""
    return [one for one in plans if str(one.layout) in text]


def test_plan_of_several_stages_sums_their_hours() -> None:
    plan = plan_recipe("both", [stage(SFT), stage(GRPO)], SMALL, 4, H100)
    assert plan.hours == sum(one.hours for one in plan.stages)
    assert plan.gpu_hours == 4 * plan.hours
    sft = plan.stages[0]
    assert sft.tokens_per_second == pytest.approx(4 * 80 / sft.seconds)  # 16 rows over 4 GPUs
    assert sft.hours == pytest.approx(sft.work.steps * sft.seconds / 3600)


def test_too_large_stage_is_rejected_with_its_largest_part_and_advice() -> None:
    with refused(ConfigError, field="it", reason="TOO_LARGE", limit="71.1 GiB") as caught:
        plan_stage(stage(LONG, shard=2, tensor=1), LLAMA, 8, H100)
    text = str(caught.value)
    peak = plan_stage(stage(LONG, shard=2, tensor=1), LLAMA, 8, ROOMY).memory
    needed, largest = (f"{taken / GIB:.1f}" for taken in (peak.bytes, peak.largest.bytes))
    for named in ("h100", "71.1", needed, largest, peak.name, peak.largest.name):
        assert named in text
    assert named_in(text, fitting_layouts(stage(LONG), LLAMA, 8, H100))


def test_error_says_if_no_layout_fits() -> None:
    assert list(fitting_layouts(stage(LONG), LLAMA, 1, H100)) == []
    with refused(ConfigError, field="it", reason="TOO_LARGE", limit="71.1 GiB") as caught:
        plan_stage(stage(LONG), LLAMA, 1, H100)
    needed = plan_stage(stage(LONG), LLAMA, 1, ROOMY).memory.bytes / GIB
    assert (
        str(caught.value).count(f"{needed:.1f}") == 2
    )  # of this layout and of the smallest one, which are equal here


def test_indivisible_layout_is_rejected_with_a_valid_one() -> None:
    with refused(
        ConfigError, field="it.parallelism", reason="OUT_OF_RANGE", limit="a divisor of 4"
    ) as caught:
        plan_stage(stage(LONG, shard=8), LLAMA, 4, H100)
    assert named_in(str(caught.value), fitting_layouts(stage(LONG), LLAMA, 4, H100))


def test_constraints_of_the_stage_are_checked() -> None:
    with refused(
        ConfigError, field="it.batch_rows", reason="OUT_OF_RANGE", limit="a multiple of 32"
    ) as caught:
        plan_stage(stage(SFT, shard=32), SMALL, 32, H100)
    assert named_in(str(caught.value), fitting_layouts(stage(SFT), SMALL, 32, H100))
    with refused(ConfigError, field="it.parallelism.tensor", reason="CONFLICT"):
        plan_stage(stage(replace(SFT, lora=LoraConfig()), tensor=2), SMALL, 2, H100)


def test_advice_is_the_fastest_layout_that_fits() -> None:
    found = list(fitting_layouts(stage(LONG), LLAMA, 8, H100))
    assert {str(one.layout) for one in found} >= {"shard 8 x tensor 1", "shard 4 x tensor 2"}
    assert all(one.memory.bytes <= H100.usable_bytes for one in found)
    with refused(ConfigError, field="it", reason="TOO_LARGE") as caught:
        plan_stage(stage(LONG), LLAMA, 8, H100)
    fastest = min(found, key=lambda one: one.seconds)
    assert str(fastest.layout) in str(caught.value)


@pytest.mark.parametrize(
    "larger",
    [
        replace(LONG, microbatch_rows=4),
        replace(LONG, max_tokens=1024),
    ],
)
def test_more_or_longer_rows_take_more_memory(larger: type[SFT]) -> None:  # type: ignore[valid-type]
    less, more = (
        plan_stage(stage(config, shard=8), LLAMA, 8, ACCELERATORS["h200"])
        for config in (LONG, larger)
    )
    assert more.memory.bytes > less.memory.bytes


def test_shards_reduce_memory_and_layers_increase_it() -> None:
    few, many = (
        plan_stage(stage(LONG, shard=shard), LLAMA, 16, ACCELERATORS["h200"]) for shard in (8, 16)
    )
    assert many.memory.bytes < few.memory.bytes
    deeper = replace(LLAMA, num_layers=40, windows=(None,) * 40, ropes=LLAMA.ropes[:1] * 40)
    deep = plan_stage(stage(LONG, shard=8), deeper, 16, ACCELERATORS["h200"])
    assert deep.memory.bytes > few.memory.bytes
    assert deep.seconds > few.seconds


def test_lora_takes_a_fraction_of_the_memory_of_full_training() -> None:
    full, adapted = (
        plan_stage(stage(config, shard=8), LLAMA, 8, H100)
        for config in (LONG, replace(LONG, lora=LoraConfig()))
    )
    assert adapted.memory.bytes < 0.8 * full.memory.bytes
    assert adapted.seconds < full.seconds


def test_longer_responses_take_longer_to_sample() -> None:
    short, long = (
        plan_stage(stage(replace(PPO, max_response_tokens=tokens)), SMALL, 1, H100)
        for tokens in (64, 128)
    )
    assert long.seconds > short.seconds
    assert {one.name for one in long.spent} == {"computing", "sampling"}
