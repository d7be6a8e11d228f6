"""Configurations of short runs and their reported messages."""

from pathlib import Path

from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, Progress
from training.stages.sft import SftConfig


def sft_config(tmp_path: Path, output: str) -> SftConfig:
    return SftConfig(
        model_directory=tmp_path / "first",
        data_path=tmp_path / "sft.jsonl",
        output_directory=tmp_path / output,
        lineage=Lineage(output),
        epochs=2,
        batch_rows=8,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        checkpoint_every_steps=2,
        machine=Machine(threads=1),
    )


class Told:
    """Watcher that records its calls."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, name: str) -> None:
        self.events.append(f"begin {name}")

    def move(self, name: str, progress: Progress) -> None:
        self.events.append(f"{name} {progress.step}")

    def end(self, name: str) -> None:
        self.events.append(f"end {name}")
