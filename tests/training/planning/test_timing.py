"""Planned time compared with hand calculations, a published figure, and real communication."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.planning.sums import COUNTED, LAYERS
from tests.training.workers import run_workers
from training.model.config import llama_json, parse_config
from training.parallelism.layout import Parallelism
from training.planning.accelerators import ACCELERATORS, BF16_SHARE, SUSTAINED_SHARE, Accelerator
from training.planning.layout import Layout
from training.planning.step import Network, Pass, Role, Sampled, Shared, Work, sizes_of
from training.planning.timing import (
    BACKWARD_SUMS,
    FORWARD_SUMS,
    TimeItem,
    longest_kind,
    model_operations,
    time_of,
)
from training.recipes.open_models.recipes import shape

H100 = ACCELERATORS["h100"]
# Round figures: 1e12 operations per second in bf16, 1e9 in fp32, 1e9 bytes of memory, 1e9 to
# neighbours, 1e8 to other machines.
ROUND = Accelerator(
    "round",
    80,
    1 / BF16_SHARE,
    1e-3 / SUSTAINED_SHARE,
    *(gb / SUSTAINED_SHARE for gb in (1.0, 1.0, 0.1)),
    "made up",
)
MODEL = parse_config(llama_json(1000, 64, 2, 4, 2, 128))
MATRICES = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
WHOLE = sizes_of(MODEL).total
EXCHANGED = 2 * (4 * WHOLE - 2 * MATRICES) + 4 * WHOLE  # bytes of a forward and a backward pass


def work_of(made: Pass, **settings: object) -> Work:
    work = Work(
        MODEL,
        (Network("policy", Role.LEARNS, WHOLE),),
        (made,),
        steps=1,
        tokens=made.rows * made.tokens,
    )
    return replace(work, **settings)  # type: ignore[arg-type]


LEARNING = Pass(
    "policy", learns=True, times=3, rows=2, tokens=10, most_tokens=10, logits=4, most_logits=4
)
WITHOUT_HEAD = replace(LEARNING, logits=0.0, most_logits=0)


def spent(
    work: Work, gpus: int = 1, shard: int = 1, tensor: int = 1, accelerator: Accelerator = ROUND
) -> dict[str, float]:
    return {
        one.name: one.seconds
        for one in time_of(work, Layout(gpus, Parallelism(shard, tensor)), accelerator)
    }


def test_model_operations_are_those_of_the_model_without_recomputation() -> None:
    """Use 20 tokens per pass; full training needs 6 per weight and 12 L Q T, adapters 4 and 12."""
    full, head = 20 * (6 * MATRICES + 12 * 2 * 64 * 10), 8 * 6 * 64 * 1000
    assert model_operations(work_of(LEARNING)) == 3 * (full + head)
    assert model_operations(work_of(LEARNING, recomputed=True)) == 3 * (full + head)
    adapted, forward = full - 20 * 2 * MATRICES, 20 * (2 * MATRICES + 4 * 2 * 64 * 10)
    assert model_operations(work_of(WITHOUT_HEAD, adapted=True)) == 3 * adapted
    assert model_operations(work_of(replace(WITHOUT_HEAD, learns=False))) == 3 * forward


def test_model_operations_include_sampling() -> None:
    """Sample 6 rows of 4 tokens for 2 prompts of 3 tokens."""
    sampled = Sampled(rows=6, prompts=2, prompt_tokens=3, response_tokens=4)
    read = 2 * 3 * (2 * MATRICES + 4 * 2 * 64 * 3)
    written = 6 * 4 * (2 * (MATRICES + 64 * 1000) + 4 * 2 * 64 * 5)
    more = model_operations(work_of(LEARNING, sampled=sampled)) - model_operations(
        work_of(LEARNING)
    )
    assert more == read + written


def test_computing_time_equals_the_hand_calculation() -> None:
    """Use 20 tokens per forward pass: 6 operations per weight, 12 L Q T of attention.

    The head has 8 rows, in fp32.
    """
    body = 20 * (6 * MATRICES + 12 * 2 * 64 * 10)
    head = 8 * 6 * 64 * 1000
    assert spent(work_of(LEARNING)) == {"computing": pytest.approx(3 * (body / 1e12 + head / 1e9))}


def test_lora_saves_weight_gradients_and_recomputation_adds_a_forward() -> None:
    attention = 2 * 64 * 10
    adapted = 20 * (4 * MATRICES + 12 * attention)
    assert spent(work_of(WITHOUT_HEAD, adapted=True))["computing"] == pytest.approx(
        3 * adapted / 1e12
    )
    again = 20 * (8 * MATRICES + 16 * attention)
    assert spent(work_of(WITHOUT_HEAD, recomputed=True))["computing"] == pytest.approx(
        3 * again / 1e12
    )
    reading = 20 * (2 * MATRICES + 4 * attention)
    assert spent(work_of(replace(WITHOUT_HEAD, learns=False)))["computing"] == pytest.approx(
        3 * reading / 1e12
    )


def test_shard_exchange_overlaps_with_computing() -> None:
    """Each of 4 workers receives 3/4 of all weights twice per forward pass, matrices in bf16.

    Each worker also sends 3/4 of the gradients.
    """
    found = spent(work_of(WITHOUT_HEAD), gpus=4, shard=4)
    assert found == {"exchange of shards": pytest.approx(3 * EXCHANGED * 3 / 4 / 1e9)}
    wide = spent(
        work_of(WITHOUT_HEAD, narrow=False),
        gpus=4,
        shard=4,
        accelerator=replace(ROUND, fp32_teraflops=1e9),
    )
    assert wide == {"exchange of shards": pytest.approx(3 * 3 * 4 * WHOLE * 3 / 4 / 1e9)}
    slow = replace(ROUND, bf16_teraflops=ROUND.bf16_teraflops / 1e6)
    assert list(spent(work_of(WITHOUT_HEAD), gpus=4, shard=4, accelerator=slow)) == ["computing"]


def test_shared_prompts_are_processed_once_in_another_forward() -> None:
    shared = replace(WITHOUT_HEAD, shared=Shared(prompts=1, prompt_tokens=6))
    body = (6 + 2 * 4) * (6 * MATRICES + 12 * 2 * 64 * 10)
    assert spent(work_of(shared)) == {"computing": pytest.approx(3 * body / 1e12)}
    whole = spent(work_of(WITHOUT_HEAD), gpus=4, shard=4)["exchange of shards"]
    assert spent(work_of(shared), gpus=4, shard=4)["exchange of shards"] == pytest.approx(2 * whole)


def test_replicas_sum_gradients_once_per_step_without_overlap() -> None:
    found = spent(work_of(LEARNING), gpus=2)
    assert found["sums of copies"] == pytest.approx(2 * 4 * WHOLE * 1 / 2 / 1e9)
    assert found["computing"] == spent(work_of(LEARNING))["computing"]


def test_rates_across_machines_use_the_network() -> None:
    """With 16 shards, 8 in a machine share their 8 adapters, 0.8 GB/s.

    With 2 replicas of 8 each GPU has a neighbour in the other machine.
    """
    whole = 3 * EXCHANGED
    assert spent(work_of(WITHOUT_HEAD), gpus=16, shard=16)["exchange of shards"] == pytest.approx(
        whole * 15 / 16 / 0.8e9
    )
    summed = 3 * 2 * 4 * WHOLE / 8 / 2 / 0.1e9
    found = spent(work_of(WITHOUT_HEAD), gpus=16, shard=8)["exchange of shards"]
    assert found == pytest.approx(whole * 7 / 8 / 1e9 + summed)


def test_tensor_sums_are_not_overlapped() -> None:
    found = spent(work_of(LEARNING), gpus=2, tensor=2)
    sent = 3 * 20 * 2 * 64 * (2 * 2 + 5 * 4)  # tokens, layers, d; bf16 forward, fp32 backward
    assert found["tensor sums"] == pytest.approx(2 * sent * 1 / 2 / 1e9)
    head = 3 * 8 * 6 * 64 * 1000 / 1e9
    body = 3 * 20 * (6 * MATRICES + 12 * 2 * 64 * 10) / 2 / 1e12
    assert found["computing"] == pytest.approx(body + head)  # the head is whole on both workers


def test_real_workers_communicate_as_planned(tmp_path: Path) -> None:
    run_workers("tests.training.planning.sums:count", 2, tmp_path, json.dumps({"tensor": 2}))
    forward, backward = json.loads((tmp_path / "sums.json").read_text())
    assert forward == {"all_reduce bfloat16": FORWARD_SUMS * LAYERS}
    assert backward == {"all_reduce float32": BACKWARD_SUMS * LAYERS}


def test_shards_are_gathered_and_summed_in_fp32_each_time(tmp_path: Path) -> None:
    run_workers("tests.training.planning.sums:count", 2, tmp_path, json.dumps({"shard": 2}))
    forward, backward = json.loads((tmp_path / "sums.json").read_text())
    gather, scatter = "_allgather_base_ float32", "_reduce_scatter_base_ float32"
    assert set(forward) == {gather}
    assert forward[gather] >= LAYERS + 1
    assert backward[gather] >= LAYERS
    assert backward[scatter] == LAYERS + 1


def test_shards_in_bfloat16_are_gathered_in_bf16_and_summed_in_fp32(
    tmp_path: Path,
) -> None:
    run_workers(
        "tests.training.planning.sums:count", 2, tmp_path, json.dumps({"shard": 2}), "narrow"
    )
    _, backward = json.loads((tmp_path / "sums.json").read_text())
    assert backward["_reduce_scatter_base_ float32"] == LAYERS + 1
    received = json.loads((tmp_path / "bytes.json").read_text())
    sizes = sizes_of(parse_config(COUNTED))
    outside = 4 * sizes.outside  # gathered twice, for the embedding and for the head
    assert received == sizes.gathered_bytes(1, narrow=True) + outside


def test_decoding_reads_all_weights_and_the_cache_for_each_token() -> None:
    sampled = Sampled(rows=4, prompts=4, prompt_tokens=6, response_tokens=8)
    found = spent(work_of(LEARNING, sampled=sampled))["sampling"]
    weights = MATRICES + 64 * 1000
    a_token = 4 * weights + 4 * 10 * (
        2 * 2 * 32 * 4
    )  # 6 + 8/2 tokens in the cache; keys and values of 2 layers
    products = 4 * 2 * (weights + 2 * 2 * 64 * 10)
    assert products > a_token  # fp32 products are slower here
    assert found == pytest.approx(4 * 6 * 2 * MATRICES / 1e9 + 8 * products / 1e9)
    fast = replace(ROUND, fp32_teraflops=1.0 / SUSTAINED_SHARE)
    found = spent(work_of(LEARNING, sampled=sampled), accelerator=fast)["sampling"]
    assert found == pytest.approx(4 * 6 * 2 * MATRICES / 1e12 + 8 * a_token / 1e9)


def test_planned_speed_matches_the_published_8b_model() -> None:
    """torchtitan: 5,762 tokens/s per GPU with FSDP on 8 H100, 2 rows of 8,192 tokens each.

    The head of torchtitan is in bf16, so its time is added here.
    """
    model = shape("llama-3.1-8b")
    made = Pass("model", True, 1, 2, 8192, 8192)
    work = Work(
        model, (Network("model", Role.LEARNS, sizes_of(model).total),), (made,), 1, 2 * 8192
    )
    (one,) = time_of(work, Layout(8, Parallelism(shard=8)), H100)
    head_seconds = 2 * 8192 * 6 * sizes_of(model).head / H100.narrow_rate
    assert one.name == "computing"
    assert 2 * 8192 / (one.seconds + head_seconds) == pytest.approx(5762, rel=0.1)


def test_faster_accelerator_is_never_slower() -> None:
    work = work_of(LEARNING, sampled=Sampled(4, 4, 6, 8))
    for gpus, shard, tensor in ((1, 1, 1), (4, 4, 1), (4, 2, 2), (16, 8, 2)):
        slow = sum(spent(work, gpus, shard, tensor, ACCELERATORS["a100-80"]).values())
        assert sum(spent(work, gpus, shard, tensor, H100).values()) < slow


def test_longest_kind_is_the_bound() -> None:
    assert longest_kind((TimeItem("computing", 1.0), TimeItem("sampling", 2.0))) == "sampling"
