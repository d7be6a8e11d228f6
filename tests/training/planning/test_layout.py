"""Valid layouts, and the communication rates of their groups."""

from tests.support.errors import refused
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.parallelism.layout import Parallelism
from training.planning.accelerators import ACCELERATORS, SUSTAINED_SHARE, accelerator_named
from training.planning.layout import Layout
from training.recipes.open_models.recipes import shape

H100 = ACCELERATORS["h100"]


def test_replicas_are_gpus_divided_by_shard_and_tensor() -> None:
    layout = Layout(64, Parallelism(shard=8, tensor=4))
    assert (layout.copies, layout.data_size, layout.ranks.data_size) == (2, 16, 16)


def test_indivisible_number_of_gpus_is_rejected() -> None:
    with refused(ConfigError, field="parallelism", reason="OUT_OF_RANGE", limit="a divisor of 12"):
        Layout(12, Parallelism(shard=4, tensor=2))
    with refused(ConfigError, field="gpus", reason="OUT_OF_RANGE", limit="at least 1"):
        Layout(0, Parallelism())


def test_fsdp_is_used_for_split_models_with_several_data_workers() -> None:
    assert not Layout(4, Parallelism()).gathers  # whole replicas
    assert not Layout(4, Parallelism(tensor=4)).gathers
    assert Layout(4, Parallelism(tensor=2)).gathers
    assert Layout(4, Parallelism(shard=4)).gathers


def test_constraints_of_distribute_are_checked() -> None:
    layout = Layout(8, Parallelism(tensor=8))
    layout.check(shape("llama-3.1-8b"), None)
    limit = "a divisor of num_attention_heads, 28"
    with refused(ConfigError, field="parallelism.tensor", reason="OUT_OF_RANGE", limit=limit):
        layout.check(shape("qwen2.5-7b"), None)
    with refused(ConfigError, field="parallelism.tensor", reason="CONFLICT"):
        layout.check(shape("llama-3.1-8b"), LoraConfig())


def test_groups_across_machines_share_network_adapters() -> None:
    layout = Layout(64, Parallelism(shard=8, tensor=8))
    assert layout.tensor_rate(H100) == 450e9 * SUSTAINED_SHARE
    assert layout.shard_rate(H100) == 50e9 * SUSTAINED_SHARE  # one GPU per machine
    assert (
        Layout(64, Parallelism(shard=64)).shard_rate(H100) == 400e9 * SUSTAINED_SHARE
    )  # all 8 GPUs of each machine
    assert Layout(8, Parallelism(shard=8)).shard_rate(H100) == 450e9 * SUSTAINED_SHARE


def test_pipeline_is_rejected_by_name() -> None:
    with refused(ConfigError, field="parallelism.pipeline", reason="UNSUPPORTED", limit="1"):
        Layout(8, Parallelism(pipeline=2))


def test_unknown_accelerator_is_rejected_with_known_names() -> None:
    known = "h100, h200, a100-80, l40s, rtx-4090, a10, l4"
    with refused(ConfigError, field="accelerator", reason="UNKNOWN", limit=known):
        accelerator_named("tpu")


def test_every_accelerator_has_a_source() -> None:
    assert all("NVIDIA" in accelerator.source for accelerator in ACCELERATORS.values())
