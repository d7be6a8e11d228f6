"""TensorBoard's files of a stage: every metric by step, and samples as texts. `tensorboard --logdir
STORAGE` shows all stages under it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.stages.context import Progress, Sample

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "tensorboard"
FLUSH_SECONDS = 10


class EventFiles:
    """Opens its file with the first step: one that comes again after a resume takes the place of
    all from there on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def append(self, progress: Progress) -> None:
        """All metrics of a step."""
        writer = self._open(progress.step)
        for name, value in progress.metrics.items():
            writer.add_scalar(name, value, progress.step)

    def append_sample(self, sample: Sample) -> None:
        """The beginning and what was written, as code, which TensorBoard does not take for
        Markdown.
        """
        text = f"{sample.prompt}{sample.text}".replace("\n", "\n    ")
        self._open(sample.step).add_text(f"sample/{sample.prompt}", f"    {text}", sample.step)

    def close(self) -> None:
        """What waits is written."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            # Most of a second, which stages without steps need not pay.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(self._directory), purge_step=step, flush_secs=FLUSH_SECONDS
            )
        return self._writer
