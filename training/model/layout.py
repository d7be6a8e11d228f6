"""Mapping between tensors on disk and in memory, needed for GPT-2 only.

In memory every family has Llama's names and nn.Linear's [out, in], so adapters, tensor parallelism
and the transformer handle one set of projections. GPT-2's files have other names, one matrix for
queries, keys and values, and Conv1D's [in, out].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.model.config import ModelConfig

GPT2_PREFIX = "transformer."  # missing in the original files of OpenAI
# Names on disk and in memory. GPT2_LAYER is repeated for each layer.
GPT2_OUTSIDE: dict[str, tuple[str, ...]] = {
    "wte": ("embed_tokens",),
    "wpe": ("embed_positions",),
    "ln_f": ("norm",),
}
GPT2_LAYER: dict[str, tuple[str, ...]] = {
    "ln_1": ("input_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "ln_2": ("post_attention_layernorm",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}
CONV1D = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight")
# Derived tables in old files, not weights: causal masks and rotary frequencies.
CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True)
class Stored:
    """A tensor on disk with its parts in memory, stacked by rows.

    `transposed`: stored as [in, out].
    """

    name: str
    parts: tuple[str, ...]
    transposed: bool = False


def to_disk(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Convert a whole decoder's tensors to Hugging Face names and layout."""
    left = dict(tensors)
    written: dict[str, Tensor] = {}
    for stored in _stored(config):
        parts = [left.pop(part) for part in stored.parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        written[stored.name] = whole.T if stored.transposed else whole
    return written | left


def from_disk(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Convert tensors from disk to memory layout, the inverse of `to_disk`.

    The results share no memory with each other.
    """
    left = dict(tensors)
    read: dict[str, Tensor] = {}
    for stored in _stored(config):
        whole = left.pop(stored.name)
        # Queries, keys and values are equal thirds of c_attn.
        rows = (whole.T if stored.transposed else whole).chunk(len(stored.parts))
        read |= {
            part: row.clone(memory_format=torch.contiguous_format)
            for part, row in zip(stored.parts, rows, strict=True)
        }
    return read | left


def hugging_face_name(name: str, config: ModelConfig) -> str:
    """Return the name used by `to_disk`, adding the family's prefix if the file lacks it."""
    bare = config.family == "gpt2" and not name.startswith((GPT2_PREFIX, "lm_head."))
    return GPT2_PREFIX + name if bare else name


def is_constant(name: str) -> bool:
    """Return True for derived tables, which are not weights."""
    return name.endswith(CONSTANTS)


def _stored(config: ModelConfig) -> Iterator[Stored]:
    if config.family != "gpt2":
        return
    for theirs, ours in GPT2_OUTSIDE.items():
        for part in ("weight", "bias") if theirs == "ln_f" else ("weight",):
            yield Stored(
                f"{GPT2_PREFIX}{theirs}.{part}", tuple(f"model.{name}.{part}" for name in ours)
            )
    for layer in range(config.num_layers):
        for theirs, ours in GPT2_LAYER.items():
            for part in ("weight", "bias"):
                names = tuple(f"model.layers.{layer}.{name}.{part}" for name in ours)
                yield Stored(
                    f"{GPT2_PREFIX}h.{layer}.{theirs}.{part}",
                    names,
                    theirs in CONV1D and part == "weight",
                )
