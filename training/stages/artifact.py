"""What SFT and PPO leave behind: a model directory that can be served at once, its manifest last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.lora import LoraConfig, load_adapter, merge_adapter, save_adapter
from training.stages.context import Lineage, RunContext

ADAPTER = "adapter"  # folder of the unmerged adapter in a model directory


def finished(output_directory: Path) -> Manifest | None:
    """The manifest of a stage that has already written its output."""
    return read_manifest(output_directory) if (output_directory / MANIFEST).exists() else None


def write_model(backbone: Backbone, lora: LoraConfig | None, model_directory: Path, output_directory: Path) -> None:
    """The trained weights in Hugging Face's layout. An adapter is merged into the **full** model (the trained one may have a
    trimmed vocabulary) and kept under adapter/ as well."""
    if lora is None or backbone.adapter is None:
        save_decoder(backbone.decoder, output_directory, companions_from=model_directory)
        return
    save_adapter(backbone.decoder, backbone.adapter, lora, output_directory / ADAPTER, parent=model_directory.name)
    whole = load_decoder(model_directory)
    load_adapter(whole, backbone.adapter, output_directory / ADAPTER)
    merge_adapter(whole, backbone.adapter)
    save_decoder(whole, output_directory, companions_from=model_directory)


def publish(
    config: object,
    lineage: Lineage,
    output_directory: Path,
    context: RunContext,
    write: Callable[[], None],
    *,
    kind: str,
    parents: tuple[str, ...],
    seed: int,
    report: Mapping[str, Any],
) -> Manifest:
    """Rank 0 writes files, then the manifest; every rank returns the same one."""
    if context.ranks.rank == 0:
        write()
        snapshot = {"snapshot": lineage.snapshot, "sha256": lineage.snapshot_sha256} if lineage.snapshot else None
        write_manifest(
            output_directory,
            kind=kind,
            version=lineage.version,
            parents=parents,
            config=config,
            code_commit=lineage.code_commit,
            seeds={"run": seed},
            data=snapshot,
            report=report,
            licence=lineage.licence,
        )
    context.ranks.wait()
    return read_manifest(output_directory)
