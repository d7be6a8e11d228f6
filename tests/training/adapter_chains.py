"""Versions that are trained one on another by adapters, with random updates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.artifacts.manifest import BASE_ADAPTER, write_manifest
from training.model.backbone import trainable_backbone
from training.model.checkpoint import load_decoder
from training.model.lora import LoraConfig, adapter_parameters
from training.model.vocabulary import choose_rows, trim_vocabulary
from training.stages.artifact import write_model


def train_adapter(
    parent: Path,
    output: Path,
    config: LoraConfig,
    *,
    seed: int = 1,
    spread: float = 0.05,
    kept_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Write a version with a random adapter on its parent; return the entry for its manifest.

    Args:
        spread: deviation of the adapter's entries.
        kept_ids: ids of a trimmed vocabulary, in which the version is trained.
    """
    decoder = load_decoder(parent)
    if kept_ids:
        trim_vocabulary(decoder, choose_rows(kept_ids, decoder.config.vocab_size, 64))
    backbone = trainable_backbone(decoder, "policy", config, seed=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(decoder, "policy"):
            parameter.normal_(0, spread, generator=generator)
    figures = write_model(backbone, config, parent, output)
    write_manifest(output, kind="model", version=output.name, report=figures)
    return dict(figures[BASE_ADAPTER])
