"""Output of a stage: a directory that can be served at once; the manifest is written last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.artifacts.manifest import BASE_ADAPTER, Manifest, read_manifest, write_manifest
from training.runtime.context import Lineage, RunContext

if TYPE_CHECKING:
    from training.model.backbone import Backbone
    from training.model.config import LoraConfig

ADAPTER = "adapter"  # folder of the unmerged adapter in a model directory


class PublishedConfig(Protocol):
    """Fields of a config that its output's manifest records."""

    @property
    def output_directory(self) -> Path: ...
    @property
    def lineage(self) -> Lineage: ...
    @property
    def seed(self) -> int: ...


class FineTuningConfig(PublishedConfig, Protocol):
    """Config of a stage that continues the training of a model."""

    @property
    def model_directory(self) -> Path: ...
    @property
    def lora(self) -> LoraConfig | None: ...


def write_model(
    backbone: Backbone, lora: LoraConfig | None, model_directory: Path, output_directory: Path
) -> dict[str, Any]:
    """Write the trained weights in the layout of Hugging Face.

    An adapter is merged into the **full** model, as the trained model may have a trimmed
    vocabulary. The unmerged adapter is written to adapter/ as well, and its sum with the adapters
    before to base_adapter/ (`write_base_adapter`).

    Returns:
        for the manifest: {"base_adapter": …} if there is an adapter.
    """
    from training.model.base_adapter import write_base_adapter
    from training.model.checkpoint import load_decoder, save_decoder
    from training.model.lora import merge_saved_adapter, record_base, save_adapter

    if lora is None or backbone.adapter is None:
        save_decoder(backbone.decoder, output_directory, companions_from=model_directory)
        return {}
    save_adapter(
        backbone.decoder,
        backbone.adapter,
        lora,
        output_directory / ADAPTER,
        parent=model_directory.name,
    )
    record_base(output_directory / ADAPTER, model_directory)
    full_decoder = load_decoder(model_directory)
    merge_saved_adapter(full_decoder, output_directory / ADAPTER)
    save_decoder(full_decoder, output_directory, companions_from=model_directory)
    if full_decoder.config.family == "gpt2":
        return {BASE_ADAPTER: {"refused": "vLLM has no adapters for GPT-2"}}
    adapter, target = output_directory / ADAPTER, output_directory / BASE_ADAPTER
    return {BASE_ADAPTER: write_base_adapter(model_directory, adapter, target, lora.served_rank)}


def publish_model(
    config: FineTuningConfig,
    context: RunContext,
    backbone: Backbone,
    report: Mapping[str, Any],
    judges: tuple[str, ...] = (),
) -> Manifest:
    """Assemble the parts of a split model and publish the result.

    Args:
        judges: versions of the reward models, recorded as parents in addition to the initial model.
    """
    from training.parallelism.layout import assemble

    assemble(backbone.decoder, context.ranks)
    return publish(
        config,
        context,
        lambda: write_model(backbone, config.lora, config.model_directory, config.output_directory),
        kind="model",
        parents=(config.model_directory.name, *judges),
        report=report,
    )


def publish(
    config: PublishedConfig,
    context: RunContext,
    write: Callable[[], Mapping[str, Any] | None],
    *,
    kind: str,
    parents: tuple[str, ...],
    report: Mapping[str, Any],
    data: Mapping[str, str] | None = None,
) -> Manifest:
    """Write the files, then the manifest, on rank 0; return the same manifest on every rank.

    Args:
        write: writes the files; returns figures in addition to `report`.
        data: identifies the data if they are no snapshot of the lineage.
    """
    output_directory, lineage = config.output_directory, config.lineage
    if context.ranks.rank == 0:
        figures = write() or {}
        snapshot = (
            {"snapshot": lineage.snapshot, "sha256": lineage.snapshot_sha256}
            if lineage.snapshot
            else data
        )
        write_manifest(
            output_directory,
            kind=kind,
            version=lineage.version,
            parents=parents,
            config=config,
            code_commit=lineage.code_commit,
            seeds={"run": config.seed},
            data=snapshot,
            report={**report, **figures},
            licence=lineage.licence,
        )
    context.ranks.wait()
    return read_manifest(output_directory)
