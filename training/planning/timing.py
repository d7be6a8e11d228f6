"""Time of a step by kind: products at a fraction of the peak, communication, sampling.

A multiplication and an addition are two operations; products of a forward pass are 2 per weight and
token, of a backward pass 4 (Kaplan et al., arXiv 2001.08361, table 1), or 2 with frozen weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from training.losses.log_probs import STORED_LOGITS
from training.planning.accelerators import Accelerator
from training.planning.layout import Layout
from training.planning.memory import BF16, FP32, cache_bytes
from training.planning.step import Pass, Role, Sampled, Work
from training.runtime.context import Parallelism

# Sums of [rows, tokens, d] over a tensor group per layer: two in the forward pass in the type of
# the products; in the backward pass, one for the input of each split projection, in fp32. Counted
# with two workers (tests/training/planning).
FORWARD_SUMS, BACKWARD_SUMS = 2, 5
COMPUTING, SHARDS, TENSOR, COPIES, SAMPLING = (
    "computing",
    "exchange of shards",
    "tensor sums",
    "sums of copies",
    "sampling",
)


@dataclass(frozen=True)
class TimeItem:
    """Seconds of a step for one kind of work."""

    name: str
    seconds: float


def time_of(work: Work, layout: Layout, accelerator: Accelerator) -> tuple[TimeItem, ...]:
    """Return the time of a step by kind.

    Shards are exchanged during computation, so only the longer of both counts. Sums are not
    overlapped.
    """
    totals = dict.fromkeys((COMPUTING, SHARDS, TENSOR, COPIES, SAMPLING), 0.0)
    for made in work.passes:
        computing = made.times * operations_seconds(made, work, layout, accelerator)
        exchange = made.times * _exchange_seconds(made, work, layout, accelerator)
        totals[COMPUTING if computing >= exchange else SHARDS] += max(computing, exchange)
        width = work.model.hidden_size * (BF16 if work.narrow else FP32)
        forward = FORWARD_SUMS * width * (2 if made.learns and work.recomputed else 1)
        backward = BACKWARD_SUMS * work.model.hidden_size * FP32 if made.learns else 0
        summed = made.read_tokens * work.model.num_layers * (forward + backward)
        moved = made.times * _ring(summed, layout.tensor)
        totals[TENSOR] += moved / layout.tensor_rate(accelerator)
    if layout.copies > 1 and not layout.gathers:
        # Gradients of replicas without FSDP, summed once per step.
        networks = sum(network.role is not Role.FROZEN for network in work.networks)
        moved = networks * _ring(_learned_bytes(work, layout), layout.copies) * work.optimizer_steps
        totals[COPIES] = moved / layout.copies_rate(accelerator)
    if work.sampled is not None:
        totals[SAMPLING] = _sampling_seconds(work.sampled, work, layout, accelerator)
    return tuple(TimeItem(name, seconds) for name, seconds in totals.items() if seconds)


def operations_seconds(made: Pass, work: Work, layout: Layout, accelerator: Accelerator) -> float:
    """Return the time of products in a forward pass, and in its backward pass.

    The head is in fp32 and is computed whole on each worker of a tensor group.
    """
    body, head = pass_operations(made, work)
    again = _forward_operations(made, work) if made.learns and work.recomputed else 0.0
    logits = made.rows * made.most_logits * work.model.vocab_size
    if made.learns and not work.adapted and logits > STORED_LOGITS:
        head *= 4 / 3  # a trained head computes its logits again in the backward pass
    rate = accelerator.narrow_rate if work.narrow else accelerator.wide_rate
    return (body + again) / layout.tensor / rate + head / accelerator.wide_rate


def _forward_operations(made: Pass, work: Work) -> float:
    """Return the operations of the layers in a forward pass."""
    return made.read_tokens * 2 * (work.sizes.matrices + _attention(work, made.tokens))


def _attention(work: Work, tokens: float) -> float:
    """Return the products per token with scores and values of `tokens` positions."""
    return 2 * work.model.num_layers * work.model.num_heads * work.model.head_dim * tokens


def pass_operations(made: Pass, work: Work) -> tuple[float, float]:
    """Return the operations of the layers and of the head, forward and backward.

    Operations of a recomputed forward pass are omitted.
    """
    forward, head = _forward_operations(made, work), made.rows * made.logits * 2 * work.sizes.head
    backward = 0 if not made.learns else 1 if work.adapted else 2
    # Attention has no weights, so its backward pass takes twice its forward pass in any case.
    attention = made.read_tokens * 2 * _attention(work, made.tokens)
    more = attention if made.learns and work.adapted else 0.0
    return forward * (1 + backward) + more, head * (1 + backward)


def model_operations(work: Work) -> float:
    """Return the operations of a step that the model needs, those of sampling included.

    Divided by the seconds of a step and by the peak of the GPUs, this is the model FLOPs
    utilization (MFU; Chowdhery et al., arXiv 2204.02311, appendix B), which ignores recomputation.
    """
    total = sum(made.times * sum(pass_operations(made, work)) for made in work.passes)
    if (sampled := work.sampled) is not None:
        prompt, answer = sampled.prompt_tokens, sampled.response_tokens
        read = sampled.prompts * prompt * (work.sizes.matrices + _attention(work, prompt))
        seen = work.sizes.matrices + work.sizes.head + _attention(work, prompt + answer / 2)
        total += 2 * (read + sampled.rows * answer * seen)
    return total


def _exchange_seconds(made: Pass, work: Work, layout: Layout, accelerator: Accelerator) -> float:
    """Return the time of FSDP's communication.

    FSDP gathers weights for each forward and backward pass, matrices in the type of their products.
    It sums gradients in fp32 after each backward pass, over shards and then over replicas.
    """
    if not layout.gathers:
        return 0.0
    held = work.sizes.gathered_bytes(layout.tensor, work.narrow)
    learned = _learned_bytes(work, layout) if made.learns else 0.0
    of_shards = (layout.shard - 1) / layout.shard * (held * (2 if made.learns else 1) + learned)
    of_copies = _ring(learned / layout.shard, layout.copies)
    forwards = 1 if made.shared is None else 2
    return forwards * (
        of_shards / layout.shard_rate(accelerator) + of_copies / layout.copies_rate(accelerator)
    )


def _learned_bytes(work: Work, layout: Layout) -> float:
    """Return the bytes of a trained network's gradients, before sharding."""
    adapters = [network.weights for network in work.networks if network.role is Role.ADAPTER]
    return FP32 * (max(adapters) if adapters else work.sizes.held(layout.tensor))


def _sampling_seconds(
    sampled: Sampled, work: Work, layout: Layout, accelerator: Accelerator
) -> float:
    """Return the time of sampling, by the workers or by a server for all of them.

    Prompts take products; then each token reads all weights and the cache, limited by memory
    bandwidth unless there are many rows.
    """
    sizes, model, narrow = work.sizes, work.model, work.samples_narrow
    if (server := sampled.server) is not None:
        rows = sampled.rows * layout.data_size
        batches = math.ceil(rows / server.concurrency)
        part = max(1, rows // batches)
        sampled = replace(sampled, rows=part, prompts=part, server=None)
        layout = Layout(server.gpus, Parallelism(tensor=server.gpus))
        is_narrow = server.number_bytes < FP32
        alone = replace(work, networks=(), stored_narrow=is_narrow)
        return batches * _sampling_seconds(sampled, alone, layout, accelerator)
    rate = accelerator.narrow_rate if narrow else accelerator.wide_rate
    number = BF16 if narrow else FP32
    gathering = 0.0
    if layout.gathers:
        whole = sizes.gathered_bytes(layout.tensor, narrow)
        # FSDP gathers in bf16 before fp32 weights are gathered.
        whole += sizes.gathered_bytes(layout.tensor, True) if work.narrow and not narrow else 0.0
        moved = whole * (layout.shard - 1) / layout.shard
        gathering = moved / layout.shard_rate(accelerator)
    reading = sampled.prompts * sampled.prompt_tokens * 2 * sizes.matrices / layout.tensor / rate
    matrices = sizes.matrices / layout.tensor
    seen = sampled.prompt_tokens + sampled.response_tokens / 2
    read = matrices * number + sizes.head * FP32
    read += sampled.rows * seen * cache_bytes(work, layout, number)
    attention = 2 * model.num_layers * model.num_heads * model.head_dim * seen / layout.tensor
    products = (matrices + attention) / rate + sizes.head / accelerator.wide_rate
    token = max(read / accelerator.memory_rate, sampled.rows * 2 * products)
    summed = sampled.rows * model.num_layers * FORWARD_SUMS * model.hidden_size * FP32
    token += _ring(summed, layout.tensor) / layout.tensor_rate(accelerator)
    return gathering + reading + sampled.response_tokens * token


def _ring(moved: float, size: int) -> float:
    """Return the bytes that each of `size` workers sends to sum `moved` bytes."""
    return 2 * moved * (size - 1) / size


def longest_kind(spent: Iterator[TimeItem] | tuple[TimeItem, ...]) -> str:
    """Return the kind that takes the most time."""
    return max(spent, key=lambda one: one.seconds).name
