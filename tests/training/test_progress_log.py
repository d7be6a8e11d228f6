"""TensorBoard files, read with TensorBoard's own reader."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.progress_log import EventFiles
from training.runtime.context import Progress, Sample


def read(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory)).Reload()


def losses(directory: Path) -> Iterator[tuple[int, float]]:
    for event in read(directory).Scalars("loss"):
        yield event.step, event.value


def test_metrics_are_scalars_and_samples_are_texts(tmp_path: Path) -> None:
    with closing(EventFiles(tmp_path)) as events:
        for step in (1, 2):
            events.append(Progress("sft", step, 2, {"loss": 3.0 - step, "kl": 0.5}))
        events.append_sample(Sample("sft", 2, "The", " end\nof *it*"))
    assert list(losses(tmp_path)) == [(1, 2.0), (2, 1.0)]
    tags = read(tmp_path).Tags()
    assert tags["scalars"] == ["loss", "kl"]
    (text,) = read(tmp_path).Tensors("sample/The/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "    The end\n    of *it*"


def test_repeated_steps_replace_lost_ones(tmp_path: Path) -> None:
    for steps, loss in (((1, 2, 3, 4), 9.0), ((3, 4), 1.0)):
        with closing(EventFiles(tmp_path)) as events:
            for step in steps:
                events.append(Progress("sft", step, 4, {"loss": loss}))
    assert list(losses(tmp_path)) == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0)]


def test_stage_without_steps_writes_no_file(tmp_path: Path) -> None:
    with closing(EventFiles(tmp_path / "none")):
        pass
    assert not (tmp_path / "none").exists()
