"""Planned memory compared with real steps on this CPU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.model.hub_configs import (
    GEMMA_3_1B,
    LLAMA_3_2_1B,
    QWEN2_5_0_5B,
    QWEN3_0_6B,
)
from tests.training.planning.kept import kept, kept_of_responses
from tests.training.planning.peaks import (
    COLUMNS,
    LORA,
    ROWS,
    SHAPE,
    measured,
    read,
    sampled,
    updated,
)
from tests.training.planning.stages import GRPO
from tests.training.workers import run_workers
from training.losses import log_probs
from training.model.config import ModelConfig, gpt2_json, llama_json, parse_config
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism
from training.planning import memory
from training.planning.layout import Layout
from training.planning.memory import (
    Forward,
    MemoryKind,
    Phase,
    copied_weights_bytes,
    kept_bytes,
    layer_bytes,
    peak,
    phases,
)
from training.planning.step import (
    Network,
    Pass,
    Role,
    Sampled,
    Shared,
    Work,
    adapter_size,
    sizes_of,
)

SEQUENCES, LENGTH = 2, 256
SIZES = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": llama_json(64, 256, 4, 8, 2, 640),
    "gpt2": gpt2_json(64, 256, 4, 8),
    "qwen3": QWEN3_0_6B | SIZES | {"num_hidden_layers": 4},
    "gemma3": GEMMA_3_1B | SIZES | {"num_hidden_layers": 6},
}


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_counts_are_within_3_percent_of_autograd(name: str, narrow: bool, adapted: bool) -> None:
    model, forward = parse_config(SHAPES[name]), Forward(narrow=narrow, adapted=adapted)
    planned = kept_bytes(model, forward, SEQUENCES, LENGTH) + copied_weights_bytes(
        sizes_of(model), forward
    )
    assert planned == pytest.approx(
        kept(model, SEQUENCES, LENGTH, narrow, adapted, recomputed=False), rel=0.03
    )


@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "bf16"])
def test_recomputation_stores_the_inputs_of_layers(narrow: bool) -> None:
    """Count inputs only; test_memory covers the recomputed layer of the backward pass."""
    model, forward = parse_config(SHAPES["llama"]), Forward(narrow=narrow, recomputed=True)
    inputs = SEQUENCES * LENGTH * model.num_layers * model.hidden_size * 4
    last_norm, mask = (
        SEQUENCES * LENGTH * model.hidden_size * 8,
        SEQUENCES * LENGTH * LENGTH,
    )
    held = kept(model, SEQUENCES, LENGTH, narrow, adapted=False, recomputed=True)
    assert held == pytest.approx(inputs + last_norm + mask, rel=0.01)
    one_layer = SEQUENCES * LENGTH * layer_bytes(model, forward, LENGTH)
    assert held == pytest.approx(
        kept_bytes(model, forward, SEQUENCES, LENGTH) - one_layer, rel=0.01
    )


def test_only_split_parts_shrink_with_tensor_parallelism() -> None:
    model = parse_config(SHAPES["llama"])
    one, two, four = (kept_bytes(model, Forward(tensor), 1, 64) for tensor in (1, 2, 4))
    assert one - two == 2 * (two - four) > 0
    assert four > one / 2


MODEL = parse_config(SHAPE)
WHOLE = sizes_of(MODEL).total


def case(
    parallelism: dict[str, int],
    narrow: bool = True,
    adapted: bool = False,
    recomputed: bool = False,
    stored_narrow: bool = False,
) -> dict[str, Any]:
    return {
        "stored_narrow": stored_narrow,
        "parallelism": parallelism,
        "narrow": narrow,
        "adapted": adapted,
        "recomputed": recomputed,
    }


ALONE = [case({}), case({}, narrow=False), case({}, recomputed=True), case({}, adapted=True)]
TOGETHER = [
    case({"shard": 2}),
    case({"shard": 2}, narrow=False, recomputed=True),
    case({"shard": 2}, adapted=True),
    case({"shard": 2}, adapted=True, stored_narrow=True),
    case({"tensor": 2}),
    case({}, narrow=False),
]


def work_of(
    narrow: bool = True,
    adapted: bool = False,
    recomputed: bool = False,
    model: ModelConfig = MODEL,
    stored_narrow: bool = False,
) -> Work:
    whole = sizes_of(model).total
    networks: tuple[Network, ...] = (Network("policy", Role.LEARNS, whole),)
    if adapted:
        networks = (
            Network("base", Role.FROZEN, whole),
            Network("policy", Role.ADAPTER, adapter_size(model, LORA)),
        )
    made = Pass("policy", True, 2, ROWS, COLUMNS, COLUMNS, COLUMNS, COLUMNS)
    return Work(
        model,
        networks,
        (made,),
        2,
        ROWS * COLUMNS,
        narrow=narrow,
        adapted=adapted,
        recomputed=recomputed,
        stored_narrow=stored_narrow,
    )


@pytest.mark.long
@pytest.mark.parametrize(("world", "cases"), [(1, ALONE), (2, TOGETHER)])
def test_plan_is_an_upper_bound_close_to_real_steps(
    world: int, cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    run_workers("tests.training.planning.peaks:measure", world, tmp_path, json.dumps(cases))
    peaks = json.loads((tmp_path / "peaks.json").read_text())
    for settings, taken in zip(cases, peaks, strict=True):
        how = {name: setting for name, setting in settings.items() if name != "parallelism"}
        planned = peak(work_of(**how), Layout(world, Parallelism(**settings["parallelism"])))
        assert 0.98 <= planned.bytes / taken <= 1.25, settings


SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 4,
}
FAMILIES = {
    "llama": LLAMA_3_2_1B | SMALL,
    "qwen2.5": QWEN2_5_0_5B | SMALL,
    "qwen3": QWEN3_0_6B | SMALL,
    "gemma3": GEMMA_3_1B | SMALL | {"num_hidden_layers": 6},
}
MODES = {
    "full": {},
    "full fp32": {"narrow": False},
    "lora": {"adapted": True},
    "lora on bf16": {"adapted": True, "stored_narrow": True},
    "recomputed": {"recomputed": True},
}
# One of each mode and family; the others differ by the same parts.
QUICK = {
    ("llama", "full"),
    ("qwen3", "lora"),
    ("qwen2.5", "lora on bf16"),
    ("gemma3", "full fp32"),
}


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        pytest.param(family, mode, marks=() if (family, mode) in QUICK else pytest.mark.long)
        for family in FAMILIES
        for mode in MODES
    ],
)
def test_the_peak_of_every_family_is_within_15_percent(family: str, mode: str) -> None:
    settings = case({}, **MODES[mode])
    taken = measured(0, 1, {**settings, "shape": FAMILIES[family]})
    model = parse_config(FAMILIES[family])
    planned = peak(work_of(**MODES[mode], model=model), Layout(1, Parallelism()))
    assert planned.bytes / taken == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_logits_of_a_large_vocabulary_are_planned_in_chunks(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = 1 << 20  # a sixth of the logits of the step
    monkeypatch.setattr(log_probs, "STORED_LOGITS", stored)
    monkeypatch.setattr(log_probs, "CHUNK_LOGITS", 2 * stored)
    monkeypatch.setattr(memory, "STORED_LOGITS", stored)
    shape = FAMILIES["qwen3"] | {"vocab_size": 32_768}
    taken = measured(0, 1, {**case({}, **MODES[mode]), "shape": shape})
    model = parse_config(shape)
    planned = peak(work_of(**MODES[mode], model=model), Layout(1, Parallelism()))
    assert planned.bytes / taken == pytest.approx(1, abs=0.15)


def phase_named(work: Work, name: str, layout: Layout) -> Phase:
    (found,) = [phase for phase in phases(work, layout) if phase.name == name]
    return found


def bytes_of(phase: Phase, *names: MemoryKind) -> float:
    return sum(part.bytes for part in phase.parts if part.name in names)


@pytest.mark.parametrize("stored_narrow", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("vocabulary", "prompts", "copies", "prompt_tokens", "response_tokens", "largest"),
    [
        (512, 4, 1, 96, 4, MemoryKind.ACTIVATIONS),
        (512, 16, 8, 2, 24, MemoryKind.CACHE),
        (8192, 64, 1, 2, 4, MemoryKind.CHOOSING),
    ],
)
def test_sampling_takes_the_planned_memory(
    vocabulary: int,
    prompts: int,
    copies: int,
    prompt_tokens: int,
    response_tokens: int,
    largest: MemoryKind,
    stored_narrow: bool,
) -> None:
    asked, model = (
        Sampled(prompts * copies, prompts, prompt_tokens, response_tokens),
        replace(MODEL, vocab_size=vocabulary),
    )
    work = replace(work_of(adapted=True, stored_narrow=stored_narrow), model=model, sampled=asked)
    phase = phase_named(work, "sampling", Layout(1, Parallelism()))
    taken = (MemoryKind.CACHE, MemoryKind.ACTIVATIONS, MemoryKind.CHOOSING)
    planned = bytes_of(phase, MemoryKind.FROZEN, *taken)
    taken_there = sampled(model, prompts, copies, prompt_tokens, response_tokens, stored_narrow)
    assert 0.98 <= planned / taken_there <= 1.25
    assert max(taken, key=lambda name: bytes_of(phase, name)) is largest


@pytest.mark.parametrize(("prompts", "copies", "most"), [(4, 1, 1.05), (2, 2, 1.4)])
def test_shared_prompts_are_planned_for_the_worst_case(
    prompts: int, copies: int, most: float
) -> None:
    """Assume that no rows of a minibatch share a prompt, so caches come on top of whole rows."""
    made = Pass("policy", True, 1, 4, 128, 128, shared=Shared(prompts, 64))
    phase = phase_named(
        replace(work_of(), passes=(made,)), "learning (policy)", Layout(1, Parallelism())
    )
    planned = bytes_of(phase, MemoryKind.ACTIVATIONS, MemoryKind.COPIES, MemoryKind.CACHE)
    assert 0.98 <= planned / kept_of_responses(MODEL, prompts, copies, 64, 64) <= most


def test_graph_kept_from_scoring_takes_no_more_than_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the plan would need another phase, with forward passes of other networks."""
    one = replace(
        GRPO, prompts_per_update=2, samples_per_prompt=4, minibatch_rows=8, epochs_per_update=1
    )
    assert one.is_one_step
    at_once = updated(one)
    monkeypatch.setattr(type(one), "is_one_step", False)
    assert at_once <= 1.01 * updated(one)


def test_sampling_from_shards_also_needs_the_whole_model() -> None:
    work = replace(work_of(), sampled=Sampled(8, 8, 16, 16))
    alone = phase_named(work, "sampling", Layout(1, Parallelism()))
    shared = phase_named(work, "sampling", Layout(4, Parallelism(shard=4)))
    assert bytes_of(alone, MemoryKind.GATHERED) == 0
    assert bytes_of(shared, MemoryKind.GATHERED) == WHOLE * 4
    assert bytes_of(shared, MemoryKind.WEIGHTS) == WHOLE * 4 / 4


def test_training_state_is_16_bytes_per_weight_and_frozen_weights_4() -> None:
    frozen = Network("reference", Role.FROZEN, WHOLE)
    work = replace(work_of(), networks=(*work_of().networks, frozen))
    phase = peak(work, Layout(8, Parallelism(shard=4)))
    assert (
        bytes_of(phase, MemoryKind.WEIGHTS, MemoryKind.GRADIENTS, MemoryKind.OPTIMIZER)
        == 16 * WHOLE / 4
    )
    assert bytes_of(phase, MemoryKind.FROZEN) == 4 * WHOLE / 4


def test_optimizers_store_two_numbers_one_or_none_per_weight() -> None:
    layout, matrices = Layout(1, Parallelism()), sizes_of(MODEL).matrices

    def stored(config: OptimizerConfig) -> float:
        work = replace(work_of(), optimizer_numbers=config.numbers_per_weight)
        return sum(
            part.bytes
            for part in phases(work, layout)[0].parts
            if part.name is MemoryKind.OPTIMIZER
        )

    assert stored(OptimizerConfig()) == stored(OptimizerConfig(algorithm="adam")) == 8 * WHOLE
    assert stored(OptimizerConfig(algorithm="muon")) == 8 * WHOLE - 4 * matrices
    assert stored(OptimizerConfig(algorithm="sgd")) == 4 * WHOLE
    assert stored(OptimizerConfig(algorithm="sgd", momentum=0.0)) == 0


def test_scoring_autocast_keeps_copies_of_trained_networks_only() -> None:
    whole = tuple(Network(name, Role.LEARNS, WHOLE) for name in ("policy", "critic"))
    made = tuple(
        Pass(name, False, 1, ROWS, COLUMNS, COLUMNS, COLUMNS, COLUMNS)
        for name in ("policy", "critic")
    )
    reading = phase_named(
        replace(work_of(), networks=whole, passes=made), "reading", Layout(1, Parallelism())
    )
    one = 2 * sizes_of(MODEL).matrices
    assert bytes_of(reading, MemoryKind.COPIES) == 2 * one
    learning, frozen = read(2, learn=True), read(2, learn=False)
    assert learning - read(1, learn=True) == pytest.approx(one, rel=0.02)
    assert frozen < one / 2
    assert (
        learning
        <= bytes_of(reading, MemoryKind.COPIES, MemoryKind.ACTIVATIONS, MemoryKind.LOGITS)
        < 1.4 * learning
    )
