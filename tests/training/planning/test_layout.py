"""Which layouts there are, and how fast their groups are."""

from tests.support.errors import refused
from training.model.lora import LoraConfig
from training.parallelism import Parallelism
from training.planning.accelerators import ACCELERATORS, SUSTAINED_SHARE, accelerator_named
from training.planning.layout import Layout
from training.recipes.open_models.shapes import shape
from training.stages.context import ConfigError

H100 = ACCELERATORS["h100"]


def test_copies_are_what_shard_and_tensor_leave() -> None:
    layout = Layout(64, Parallelism(shard=8, tensor=4))
    assert (layout.copies, layout.data_size, layout.ranks.data_size) == (2, 16, 16)


def test_gpus_that_shard_x_tensor_does_not_divide_are_refused() -> None:
    with refused(ConfigError, field="parallelism", reason="OUT_OF_RANGE", limit="a divisor of 12"):
        Layout(12, Parallelism(shard=4, tensor=2))
    with refused(ConfigError, field="gpus", reason="OUT_OF_RANGE", limit="at least 1"):
        Layout(0, Parallelism())


def test_fsdp_wraps_what_is_split_and_read_by_several() -> None:
    assert not Layout(4, Parallelism()).gathers  # whole copies
    assert not Layout(4, Parallelism(tensor=4)).gathers
    assert Layout(4, Parallelism(tensor=2)).gathers
    assert Layout(4, Parallelism(shard=4)).gathers


def test_what_distribute_refuses_is_refused() -> None:
    layout = Layout(8, Parallelism(tensor=8))
    layout.check(shape("llama-3.1-8b"), None)
    limit = "a divisor of num_attention_heads, 28"
    with refused(ConfigError, field="parallelism.tensor", reason="OUT_OF_RANGE", limit=limit):
        layout.check(shape("qwen2.5-7b"), None)
    with refused(ConfigError, field="parallelism.tensor", reason="CONFLICT"):
        layout.check(shape("llama-3.1-8b"), LoraConfig())


def test_neighbours_are_in_one_machine_and_groups_across_machines_share_their_adapters() -> None:
    layout = Layout(64, Parallelism(shard=8, tensor=8))
    assert layout.tensor_rate(H100) == 450e9 * SUSTAINED_SHARE
    assert layout.shard_rate(H100) == 50e9 * SUSTAINED_SHARE  # one of each machine
    assert (
        Layout(64, Parallelism(shard=64)).shard_rate(H100) == 400e9 * SUSTAINED_SHARE
    )  # all 8 of each
    assert Layout(8, Parallelism(shard=8)).shard_rate(H100) == 450e9 * SUSTAINED_SHARE


def test_a_pipeline_is_refused_by_name() -> None:
    with refused(ConfigError, field="parallelism.pipeline", reason="UNSUPPORTED", limit="1"):
        Layout(8, Parallelism(pipeline=2))


def test_an_unknown_accelerator_is_refused_with_the_names_of_the_known() -> None:
    with refused(
        ConfigError, field="accelerator", reason="UNKNOWN", limit="h100, h200, a100-80, l40s, l4"
    ):
        accelerator_named("tpu")


def test_every_accelerator_names_its_source() -> None:
    assert all("data sheet" in accelerator.source for accelerator in ACCELERATORS.values())
