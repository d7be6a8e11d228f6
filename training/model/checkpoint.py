"""A decoder on disk: a Hugging Face directory (config.json + safetensors), readable by vLLM and by our predictor.

Only the weights and config.json are read and written here; tokenizer files are copied as they are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.model.config import ModelConfig, parse_config, stored_dtype
from training.model.lora import ADAPTERS
from training.model.transformer import Decoder

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
STORED_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class CheckpointError(ValueError):
    """The directory's weights do not fit its config.json; the text names the tensors."""


def read_config(directory: Path) -> ModelConfig:
    """config.json of a model directory. Where it names no dtype, the stored type of the embedding stands for it."""
    raw = json.loads((directory / "config.json").read_text())
    if not (raw.get("dtype") or raw.get("torch_dtype")):
        raw["dtype"] = _stored_type(directory)
    return parse_config(raw)


def load_decoder(directory: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a model directory, with its weights cast to `dtype`, in eval mode.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is unknown.
    """
    config = read_config(directory)
    with torch.device("meta"):
        decoder = Decoder(config)
    tensors = _read_tensors(directory, dtype)
    if decoder.lm_head is None:
        tensors.pop("lm_head.weight", None)  # some exporters write the tied head twice
    expected = {name: parameter.shape for name, parameter in decoder.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(f"{WEIGHTS}: {len(odd)} tensors do not fit config.json, first {odd[0]}")
    decoder.load_state_dict(tensors, assign=True)
    return decoder.eval()


def save_decoder(decoder: Decoder, directory: Path, companions_from: Path | None = None) -> None:
    """Write config.json and model.safetensors in the dtype that config.json names; copy tokenizer files along."""
    directory.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = dict(decoder.config.raw)
    dtype = stored_dtype(raw)
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in plain_weights(decoder).items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n")
    if companions_from is not None:
        copy_companions(companions_from, directory)


def copy_companions(source: Path, target: Path) -> None:
    """Tokenizer, chat template and generation settings, byte by byte."""
    for name in COMPANIONS:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def plain_weights(decoder: Decoder) -> dict[str, Tensor]:
    """The decoder's own weights under Hugging Face names, without adapters."""
    return {name: tensor for name, tensor in decoder.state_dict().items() if ADAPTERS not in name}


def _stored_type(directory: Path) -> str:
    for file in _weight_files(directory):
        with safe_open(file, framework="pt") as opened:
            if EMBEDDING in opened.keys():  # noqa: SIM118 - safe_open is not a mapping
                return STORED_TYPES[opened.get_slice(EMBEDDING).get_dtype()]
    raise CheckpointError(f"{WEIGHTS}: {EMBEDDING} is missing")


def _weight_files(directory: Path) -> list[Path]:
    if not (directory / INDEX).exists():
        return [directory / WEIGHTS]
    shards = json.loads((directory / INDEX).read_text())["weight_map"].values()
    return [directory / shard for shard in sorted(set(shards))]


def _read_tensors(directory: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(directory):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is not a mapping
                tensors[name] = opened.get_tensor(name).to(dtype)
    return tensors
