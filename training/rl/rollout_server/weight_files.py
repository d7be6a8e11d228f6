"""Weights of a policy in training as directories that a model server loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from training.artifacts.manifest import write_manifest
from training.model.checkpoint import load_decoder, plain_weights, save_weights, to_disk
from training.model.config import EMBEDDINGS, LoraConfig, read_config
from training.model.lora import (
    ADAPTER_CONFIG,
    AdapterError,
    check_base,
    load_adapter,
    merge_saved_adapter,
    read_adapter_config,
    record_base,
    save_adapter_weights,
)
from training.model.transformer import Decoder
from training.rl.networks import Sources
from training.rl.samplers import Weights
from training.serving.rollout_server import ServedType

ADAPTER = "adapter"  # folder beside the merged model


def write_adapter(weights: Weights, sources: Sources, directory: Path) -> None:
    """Write the adapter of a policy and check that it fits the model.

    Raises:
        AdapterError: see `check_adapter`.
    """
    assert sources.lora is not None
    save_adapter_weights(weights, sources.lora, directory, parent=sources.model_directory.name)
    record_base(directory, sources.model_directory)
    check_adapter(directory, sources.model_directory, sources.lora)


def check_adapter(directory: Path, model_directory: Path, config: LoraConfig) -> None:
    """Check base, rank and shapes of an adapter against the model that is served.

    vLLM accepts an adapter of another base without an error and answers with it.

    Raises:
        AdapterError: the adapter belongs to another model, or has another rank, targets or shapes.
    """
    found = read_adapter_config(directory)
    parent = json.loads((directory / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    if parent != model_directory.name:
        raise AdapterError(
            f"base_model_name_or_path: the adapter belongs to {parent}, "
            f"served is {model_directory.name}",
            field="base_model_name_or_path",
            reason="MISMATCH",
            limit=model_directory.name,
        )
    check_base(directory, model_directory)
    expected = LoraConfig(config.rank, config.alpha, tuple(sorted(config.targets)))
    if found != expected:
        raise AdapterError(
            f"adapter_config.json: {found} differs from {expected}",
            field="adapter_config.json",
            reason="MISMATCH",
            limit=str(expected),
        )
    with torch.device("meta"):  # shapes only
        decoder = Decoder(read_config(model_directory))
    load_adapter(decoder, "checked", directory)


def write_model(
    weights: Weights,
    sources: Sources,
    kind: ServedType,
    directory: Path,
    version: str,
    unties_head: bool = False,
) -> None:
    """Write the whole policy as a model directory with a manifest.

    An adapter is merged into the model. The file has the number type of the server, so that nothing
    is rounded in a file for a float32 server.

    Args:
        unties_head: write the head as a tensor of its own, if it is that of the embedding.
    """
    config = read_config(sources.model_directory)
    # 8-bit weights are made by the server itself.
    stored = ServedType.FLOAT32 if kind is ServedType.UINT8 else kind
    raw: dict[str, Any] = {**config.raw, "dtype": stored.value}
    raw.pop("torch_dtype", None)
    if sources.lora is None:
        tensors = to_disk(weights, config)
    else:
        write_adapter(weights, sources, directory / ADAPTER)
        decoder = load_decoder(sources.model_directory)
        merge_saved_adapter(decoder, directory / ADAPTER)
        tensors = plain_weights(decoder)
    if unties_head and "lm_head.weight" not in tensors:
        (embedding,) = tensors.keys() & set(EMBEDDINGS)
        # A copy: a file cannot have a tensor twice.
        tensors["lm_head.weight"] = tensors[embedding].clone()
        raw["tie_word_embeddings"] = False
    save_weights(tensors, raw, directory, companions_from=sources.model_directory)
    write_manifest(directory, kind="model", version=version, sync=False)
