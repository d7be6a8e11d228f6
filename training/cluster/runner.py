"""Run a stage under Ray Train V2, or in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from training.manifest import Manifest
from training.stages.context import Progress, RunContext


class StageConfig(Protocol):
    """What the runner needs of a config."""

    @property
    def output_directory(self) -> Path: ...


Config = TypeVar("Config", bound=StageConfig)


def run_stage(  # type: ignore[empty-body]
    function: Callable[[Config, RunContext], Manifest],
    config: Config,
    run_name: str,
    storage: Path,
    num_workers: int,
    progress: Callable[[Progress], None],
    max_failures: int = 3,
) -> Manifest:
    """Run one stage to its end and return the manifest of its output.

    Checkpoints and progress.jsonl lie under storage/run_name: the same name goes on where a kill left it, and a finished stage
    (its output has a manifest) returns at once. num_workers 0: in this process, without Ray.
    """
