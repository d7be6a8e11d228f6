"""TensorBoard files of a stage: metrics per step, and samples as texts.

`tensorboard --logdir STORAGE` shows all stages in a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.runtime.context import Progress, Sample

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "tensorboard"
FLUSH_SECONDS = 10


class EventFiles:
    """Writer that opens its file with the first step.

    After a resume, steps that are repeated replace all later steps of the interrupted run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def append(self, progress: Progress) -> None:
        """Write all metrics of a step."""
        writer = self._open(progress.step)
        for name, value in progress.metrics.items():
            writer.add_scalar(name, value, progress.step)

    def append_sample(self, sample: Sample) -> None:
        """Write prompt and response, indented as code, because TensorBoard renders Markdown."""
        text = f"{sample.prompt}{sample.text}".replace("\n", "\n    ")
        self._open(sample.step).add_text(f"sample/{sample.prompt}", f"    {text}", sample.step)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            # Imported here, because the import takes most of a second.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(self._directory), purge_step=step, flush_secs=FLUSH_SECONDS
            )
        return self._writer
