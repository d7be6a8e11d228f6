"""Peak memory of a GPU in a stage, by kind.

A step has consecutive phases; the largest one decides. The figures are upper bounds: rows have the
maximum length of the config, and gradients count from the first microbatch on.

Activations follow Korthikanti et al. (arXiv 2205.05198, section 4). Our transformer stores more:
norms are computed in fp32, and under autocast every projection has its own bf16 copy of its input
and of its weight. Tests compare the counts with autograd.

Sizes: d hidden, F intermediate, Q and K all query and key-value heads together, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from training.losses.log_probs import STORED_LOGITS
from training.model.config import ModelConfig
from training.planning.layout import Layout
from training.planning.step import BF16 as BF16
from training.planning.step import FP32 as FP32
from training.planning.step import Network, Pass, Role, Sampled, Sizes, Work

# Bytes per stored logit in fp32: the scaled logit, and three temporary values for its gradient
# (token_log_probs). Measured. More than STORED_LOGITS are computed in chunks of the same memory.
LOGIT_BYTES = 4 * FP32
# FSDP stores a layer, the next one and its receive buffer; in the backward pass also the gradient
# of the layer and its reduction buffer.
GATHERED_LAYERS, GRADIENT_LAYERS = 3, 2
CHOICE_BYTES = FP32 + 3 * 8  # per logit while a token is chosen: choose() computes in fp64
FOREACH_BYTES = FP32  # per weight in AdamW's step: on GPUs all square roots exist at once


@dataclass(frozen=True)
class Forward:
    """Settings of a forward pass with gradients.

    Attributes:
        narrow: bf16 autocast.
        adapted: only an adapter is trained.
        recomputed: activation checkpointing.
    """

    tensor: int = 1
    narrow: bool = True
    adapted: bool = False
    recomputed: bool = False

    @property
    def product_bytes(self) -> int:
        """Return the bytes of a number in a matrix product."""
        return BF16 if self.narrow else FP32


def layer_bytes(model: ModelConfig, forward: Forward, tokens: int) -> float:
    """Return the stored bytes of a layer per token, for rows of `tokens`."""
    d, wide = model.hidden_size, model.intermediate_size
    q, k = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    number = forward.product_bytes
    of_norms = (4 if model.sandwich_norms else 2) * _norm_bytes(d, model, forward)
    # Under autocast each projection has its own copy of the input.
    projections = 3 + (2 if model.gated_mlp else 1)
    inputs = projections * d * BF16 if forward.narrow else 2 * d * FP32
    # Queries, keys, values and outputs, and a sum per head.
    split: float = (2 * q + 2 * k) * number + model.num_heads * FP32
    if model.qk_norm:
        split += _norm_bytes(q + k, model, forward)
    split += (4 if model.gated_mlp else 2) * wide * number
    # A number for each pair of tokens, computed in each layer from the boolean mask.
    mask = tokens * number
    return of_norms + inputs + mask + split / forward.tensor


def passing_bytes(model: ModelConfig, forward: Forward, rows: int, tokens: int) -> float:
    """Return the temporary bytes of a layer, without gradients or during recomputation."""
    last_norm = _norm_bytes(model.hidden_size, model, forward)
    boolean_mask = tokens
    return rows * tokens * (layer_bytes(model, forward, tokens) + last_norm + boolean_mask)


def kept_bytes(model: ModelConfig, forward: Forward, rows: int, tokens: int) -> float:
    """Return the stored bytes of a forward pass of `rows` x `tokens`, without copies of weights.

    With recomputation these are the inputs of all layers, and one layer.
    """
    if forward.recomputed:
        inputs = rows * tokens * model.num_layers * model.hidden_size * FP32
        return inputs + passing_bytes(model, forward, rows, tokens)
    last_norm = _norm_bytes(model.hidden_size, model, forward)
    return rows * tokens * (model.num_layers * layer_bytes(model, forward, tokens) + last_norm)


def copied_weights_bytes(sizes: Sizes, forward: Forward) -> float:
    """Return the bytes of the bf16 copies of fp32 projections.

    Autograd stores them from forward to backward pass. With recomputation they are in autocast's
    cache until the end of the forward pass, unless they are frozen.
    """
    if not forward.narrow:
        return 0.0
    if forward.recomputed and forward.adapted:
        return sizes.layer_matrices / forward.tensor * BF16
    return sizes.matrices / forward.tensor * BF16


def _norm_bytes(size: int, model: ModelConfig, forward: Forward) -> float:
    """Return the bytes of a norm: its fp32 input, and for an RMS norm also the second factor."""
    return size * FP32 * (1 if model.layer_norm or forward.adapted else 2)


class MemoryKind(StrEnum):
    """Kind of memory in a plan."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    FROZEN = "frozen weights"
    GATHERED = "gathered"
    COPIES = "bf16 copies"
    ACTIVATIONS = "activations"
    LOGITS = "logits"
    CACHE = "cache"
    CHOOSING = "choosing"
    SERVER = "rollout server"
    ROOTS = "square roots"


@dataclass(frozen=True)
class Part:
    """Bytes of one kind of memory."""

    name: MemoryKind
    bytes: float


@dataclass(frozen=True)
class Phase:
    """Memory that is in use at the same time."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> float:
        return sum(part.bytes for part in self.parts)

    @property
    def largest(self) -> Part:
        return max(self.parts, key=lambda part: part.bytes)


def phases(work: Work, layout: Layout) -> list[Phase]:
    """Return all phases of a step."""
    learned = frozen_bytes = slots = 0.0
    for network in work.networks:
        held = _held(network, work, layout)
        if network.role is Role.FROZEN:
            whole = work.sizes.gathered_bytes(layout.tensor, work.stored_narrow)
            frozen_bytes += whole / layout.shard
            continue
        learned += held
        matrices = work.sizes.matrices / layout.parts if network.role is Role.LEARNS else held
        of_matrices, elsewhere = work.optimizer_numbers
        slots += matrices * of_matrices + (held - matrices) * elsewhere
    # Held all the time, while gradients are held during training only.
    resident = []
    if learned:
        resident = [
            Part(MemoryKind.WEIGHTS, learned * FP32),
            Part(MemoryKind.OPTIMIZER, slots * FP32),
        ]
    if frozen_bytes:
        resident.append(Part(MemoryKind.FROZEN, frozen_bytes))
    server = None if work.sampled is None else work.sampled.server
    if server is not None and server.shared_bytes:
        resident.append(Part(MemoryKind.SERVER, server.shared_bytes))
    gradients = Part(MemoryKind.GRADIENTS, learned * FP32)
    found = [
        Phase(f"learning ({made.network})", (*resident, gradients, *_learning(made, work, layout)))
        for made in work.passes
        if made.learns
    ]
    if reading := [made for made in work.passes if not made.learns]:
        found.append(Phase("reading", (*resident, *_reading(reading, work, layout))))
    if server is not None and layout.gathers and not work.samples_narrow:
        # Log-probs of a few tokens are compared in fp32 with the whole model on every worker.
        gathered = Part(MemoryKind.GATHERED, work.sizes.held(layout.tensor) * FP32)
        found.append(Phase("comparison with the server", (*resident, gathered)))
    if work.sampled is not None and server is None:
        found.append(Phase("sampling", (*resident, *_sampling(work.sampled, work, layout))))
    learners = [network for network in work.networks if network.role is not Role.FROZEN]
    if learners:
        largest = max(_held(network, work, layout) for network in learners)
        roots = Part(MemoryKind.ROOTS, largest * FOREACH_BYTES)
        found.append(Phase("optimizer step", (*resident, gradients, roots)))
    return found


def peak(work: Work, layout: Layout) -> Phase:
    """Return the phase with the most memory."""
    return max(phases(work, layout), key=lambda phase: phase.bytes)


def forward_of(work: Work, layout: Layout) -> Forward:
    """Return the settings of a stage's forward passes with gradients."""
    return Forward(layout.tensor, work.narrow, work.adapted, work.recomputed)


def _held(network: Network, work: Work, layout: Layout) -> float:
    """Return the weights of a network that a worker holds between steps."""
    if network.role is Role.ADAPTER:
        return network.weights / layout.shard
    return work.sizes.held(layout.tensor) / layout.shard


def _learning(made: Pass, work: Work, layout: Layout) -> Iterator[Part]:
    sizes, forward = work.sizes, forward_of(work, layout)
    yield from _gathered(work, layout, with_gradients=not work.adapted)
    if _copies(work, layout):
        yield Part(MemoryKind.COPIES, copied_weights_bytes(sizes, forward))
    activations = kept_bytes(work.model, forward, made.rows, made.most_tokens)
    logits = 0.0
    if made.most_logits:
        # The gradient of a trained head exists once more before it is added to the sum. With
        # shards, GATHERED contains it.
        of_head = 0 if work.adapted or layout.gathers else sizes.head * FP32
        logits = _logits(made.rows * made.most_logits, work).bytes + of_head
    if work.recomputed:
        # Logits are released before a layer is recomputed, so only the larger part counts.
        layer = passing_bytes(work.model, forward, made.rows, made.most_tokens)
        if logits < layer:
            logits = 0.0
        else:
            activations -= layer
    yield Part(MemoryKind.ACTIVATIONS, activations)
    if made.shared is not None:  # for the prompts and copied for each row; stored like activations
        yield Part(
            MemoryKind.CACHE,
            2 * made.rows * made.most_tokens * cache_bytes(work, layout, forward.product_bytes),
        )
    if logits:
        yield Part(MemoryKind.LOGITS, logits)


def _reading(made: list[Pass], work: Work, layout: Layout) -> Iterator[Part]:
    """Yield the memory of forward passes without gradients, with one active layer at a time.

    Autocast keeps copies of all trained weights until all networks are done, except for shards,
    which need no copies.
    """
    sizes, forward = work.sizes, Forward(layout.tensor, work.narrow, work.adapted)
    yield from _gathered(work, layout, with_gradients=False)
    learners = {one.network for one in made} & {
        n.name for n in work.networks if n.role is Role.LEARNS
    }
    if _copies(work, layout) and learners:
        yield Part(MemoryKind.COPIES, len(learners) * sizes.matrices / layout.tensor * BF16)
    widest = max(made, key=lambda one: one.rows * one.most_tokens)
    yield Part(
        MemoryKind.ACTIVATIONS, passing_bytes(work.model, forward, widest.rows, widest.most_tokens)
    )
    if most := max(one.rows * one.most_logits for one in made):
        yield _logits(most, work)


def _logits(positions: int, work: Work) -> Part:
    logits = min(positions * work.model.vocab_size, STORED_LOGITS)
    return Part(MemoryKind.LOGITS, logits * LOGIT_BYTES)


def _sampling(sampled: Sampled, work: Work, layout: Layout) -> Iterator[Part]:
    """Yield the memory of sampling, in fp32 unless the matrices are stored in bf16.

    Every worker has the whole model, so that workers can sample for different times
    (parallelism.gathered).
    """
    model, sizes, narrow = work.model, work.sizes, work.samples_narrow
    if layout.gathers:
        yield Part(MemoryKind.GATHERED, sizes.gathered_bytes(layout.tensor, narrow))
    tokens = sampled.prompt_tokens + sampled.response_tokens
    # The cache of the prompts exists until it is copied to the rows.
    copied = sampled.prompts if sampled.rows > sampled.prompts else 0
    number = BF16 if narrow else FP32
    kept = (sampled.rows + copied) * tokens * cache_bytes(work, layout, number)
    yield Part(MemoryKind.CACHE, kept)
    forward = Forward(layout.tensor, narrow=narrow, adapted=True)
    # The prompts are processed before tokens are sampled, so only the larger part counts.
    reading = Part(
        MemoryKind.ACTIVATIONS,
        passing_bytes(model, forward, sampled.prompts, sampled.prompt_tokens),
    )
    choosing = Part(MemoryKind.CHOOSING, sampled.rows * model.vocab_size * CHOICE_BYTES)
    yield max(reading, choosing, key=lambda part: part.bytes)


def cache_bytes(work: Work, layout: Layout, number_bytes: int) -> float:
    """Return the bytes of a token's keys and values in all layers."""
    model = work.model
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * number_bytes / layout.tensor


def _gathered(work: Work, layout: Layout, with_gradients: bool) -> Iterator[Part]:
    """Yield the memory of gathered layers, in bf16 if they compute in bf16.

    Their gradients and all weights outside of layers are in fp32.
    """
    if layout.gathers:
        sizes, layer = work.sizes, work.sizes.layer_held(layout.tensor) * FP32
        narrower = sizes.layer_matrices / layout.tensor * (FP32 - BF16) if work.narrow else 0.0
        gradients = GRADIENT_LAYERS * layer if with_gradients else 0.0
        outside = (2 if with_gradients else 1) * sizes.outside * FP32
        yield Part(MemoryKind.GATHERED, GATHERED_LAYERS * (layer - narrower) + gradients + outside)


def _copies(work: Work, layout: Layout) -> bool:
    """Return True if autocast makes bf16 copies of projections.

    Shards are gathered in bf16, and frozen projections may be stored in it.
    """
    return work.narrow and not layout.gathers and not (work.adapted and work.stored_narrow)
