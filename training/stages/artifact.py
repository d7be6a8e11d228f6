"""What stages leave behind: a model directory that can be served at once, its manifest last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from training.stages.context import Lineage, RunContext

if TYPE_CHECKING:
    from training.model.backbone import Backbone
    from training.model.lora import LoraConfig

ADAPTER = "adapter"  # folder of the unmerged adapter in a model directory


class Made(Protocol):
    """What of a config its output's manifest says."""

    @property
    def output_directory(self) -> Path: ...
    @property
    def lineage(self) -> Lineage: ...
    @property
    def seed(self) -> int: ...


class Continued(Made, Protocol):
    """A config of a stage that trains a model further."""

    @property
    def model_directory(self) -> Path: ...
    @property
    def lora(self) -> LoraConfig | None: ...


def finished_manifest(output_directory: Path) -> Manifest | None:
    """The manifest of a stage that has already written its output."""
    return read_manifest(output_directory) if (output_directory / MANIFEST).exists() else None


def write_model(
    backbone: Backbone, lora: LoraConfig | None, model_directory: Path, output_directory: Path
) -> None:
    """The trained weights in Hugging Face's layout. An adapter is merged into the **full** model
    (the trained one may have a trimmed vocabulary) and kept under adapter/ as well.
    """
    from training.model.checkpoint import load_decoder, save_decoder
    from training.model.lora import load_adapter, merge_adapter, save_adapter

    if lora is None or backbone.adapter is None:
        save_decoder(backbone.decoder, output_directory, companions_from=model_directory)
        return
    save_adapter(
        backbone.decoder,
        backbone.adapter,
        lora,
        output_directory / ADAPTER,
        parent=model_directory.name,
    )
    whole = load_decoder(model_directory)
    load_adapter(whole, backbone.adapter, output_directory / ADAPTER)
    merge_adapter(whole, backbone.adapter)
    save_decoder(whole, output_directory, companions_from=model_directory)


def publish_model(
    config: Continued,
    context: RunContext,
    backbone: Backbone,
    report: Mapping[str, Any],
    judges: tuple[str, ...] = (),
) -> Manifest:
    """Put the model's parts together, and publish it. judges: versions of what taught it, beside
    the model that it begins from.
    """
    from training.parallelism import assemble

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
    config: Made,
    context: RunContext,
    write: Callable[[], None],
    *,
    kind: str,
    parents: tuple[str, ...],
    report: Mapping[str, Any],
) -> Manifest:
    """Rank 0 writes files, then the manifest; every rank returns the same one."""
    output_directory, lineage = config.output_directory, config.lineage
    if context.ranks.rank == 0:
        write()
        snapshot = (
            {"snapshot": lineage.snapshot, "sha256": lineage.snapshot_sha256}
            if lineage.snapshot
            else None
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
            report=report,
            licence=lineage.licence,
        )
    context.ranks.wait()
    return read_manifest(output_directory)
