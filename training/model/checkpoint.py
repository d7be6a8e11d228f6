"""Decoders on disk as Hugging Face directories (config.json + safetensors).

vLLM and our predictor read the same directories. This module reads and writes the weights and
config.json; tokenizer files are copied unchanged. Pickles are never read.

In memory every family has Llama's names and nn.Linear's [out, in], so adapters, tensor parallelism
and the transformer handle one set of projections. GPT-2's files have other names, one matrix for
queries, keys and values, and Conv1D's [in, out]; `to_disk` and `from_disk` convert them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chat_format.errors import ChatFormatError
from chat_format.tokenizer_check import FILE as TOKEN_IDS
from chat_format.tokenizer_check import write_token_ids
from durable_files.files import make_directory
from training.errors import ConfigError
from training.model.config import ModelConfig, read_config, stored_dtype
from training.model.lora import ADAPTERS
from training.model.tensor_files import (
    WEIGHTS,
    CheckpointError,
    read_tensors,
    weight_files,
)
from training.model.transformer import Decoder

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    TOKEN_IDS,
)
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
# Derived tables in old files, not weights: causal masks and rotary frequencies.
CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def load_decoder(directory: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """Load a decoder on the CPU in eval mode, with weights cast to `dtype`.

    Raises:
        ModelConfigError: as in `read_config`.
        CheckpointError: a file is missing, broken or a pickle; a tensor is missing, unknown, of
            another shape, or not finite.
    """
    config = read_config(directory)
    # Build without memory; the weights are assigned afterwards.
    with torch.device("meta"):
        decoder = Decoder(config)
    tensors = _read_all(directory, config, dtype)
    if decoder.lm_head is None:
        tensors.pop("lm_head.weight", None)  # some exporters write the tied head as well
    expected = {
        name: tensor.shape for name, tensor in to_disk(decoder.state_dict(), config).items()
    }
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        mismatched = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise CheckpointError(
            f"{WEIGHTS}: {len(mismatched)} tensors do not fit config.json, first {mismatched[0]}: "
            f"{_shape(found.get(mismatched[0]))}, expected {_shape(expected.get(mismatched[0]))}",
            field=mismatched[0],
            reason="MISMATCH",
            limit=_shape(expected.get(mismatched[0])),
        )
    decoder.load_state_dict(from_disk(tensors, config), assign=True)
    return decoder.eval()


def save_decoder(decoder: Decoder, directory: Path, companions_from: Path | None = None) -> None:
    """Write config.json and model.safetensors in the dtype of config.json.

    Tokenizer, chat template and generation settings are copied byte by byte from
    `companions_from`, if given. Beside the tokenizer, token ids of fixed texts are written, which
    the generator compares with those of the model server.

    Raises:
        CheckpointError: the tokenizer cannot be read.
    """
    save_weights(plain_weights(decoder), decoder.config.raw, directory, companions_from)


def save_weights(
    tensors: Mapping[str, Tensor],
    raw: Mapping[str, Any],
    directory: Path,
    companions_from: Path | None = None,
) -> None:
    """Write a model directory from tensors in Hugging Face names and layout.

    Args:
        raw: config.json, whose dtype is that of the file.
        companions_from: as in `save_decoder`.
    """
    make_directory(directory)
    dtype = getattr(torch, stored_dtype(raw))
    stored = {name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}
    save_file(stored, directory / WEIGHTS, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(dict(raw), indent=2, sort_keys=True) + "\n")
    if companions_from is not None:
        for name in COMPANIONS:
            if (companions_from / name).exists():
                shutil.copyfile(companions_from / name, directory / name)
        if (directory / "tokenizer.json").exists() and not (directory / TOKEN_IDS).exists():
            try:
                write_token_ids(directory)
            except ChatFormatError as error:
                raise CheckpointError(
                    error.text, field=error.field, reason=error.reason, limit=error.limit
                ) from error


def plain_weights(decoder: Decoder) -> dict[str, Tensor]:
    """Return the decoder's weights without adapters, under Hugging Face names and layout."""
    own = {name: tensor for name, tensor in decoder.state_dict().items() if ADAPTERS not in name}
    return to_disk(own, decoder.config)


def _read_all(directory: Path, config: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read all weight files; the family's prefix is added to names that lack it."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(directory):
        read = read_tensors(file, dtype, skip=lambda name: name.endswith(CONSTANTS))
        for name, tensor in read.items():
            bare = config.family == "gpt2" and not name.startswith((GPT2_PREFIX, "lm_head."))
            full = GPT2_PREFIX + name if bare else name
            if full in tensors:
                raise CheckpointError(
                    f"{file.name}: {full} is there twice", field=full, reason="DUPLICATE"
                )
            tensors[full] = tensor
    return tensors


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(list(shape))


def require_positions(model_directory: Path, **lengths: int) -> None:
    """Check that rows of these lengths fit the positions of the model.

    Longer rows fail in the middle of a run if positions are learned, and degrade the output if they
    are rotated.

    Args:
        lengths: parts of a row in tokens, by the config fields that limit them.

    Raises:
        ConfigError: the sum exceeds the model's positions; names the fields.
        ModelConfigError, CheckpointError: as raised by read_config.
    """
    tokens, known = sum(lengths.values()), read_config(model_directory).max_positions
    if tokens > known:
        fields = " + ".join(lengths)
        raise ConfigError(
            f"{fields}: {tokens} is above {known}, the positions of {model_directory.name}",
            field=fields,
            reason="TOO_LARGE",
            limit=f"at most {known}",
        )


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
