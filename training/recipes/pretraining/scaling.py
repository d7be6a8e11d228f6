"""Loss over compute for three sizes with equal tokens per parameter, and a power law.

Compute is 6ND (Kaplan et al., arXiv 2001.08361, 2.1): six times parameters times tokens, for
forward and backward pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from training.cluster.runner import StageRun, run_stage
from training.errors import ConfigError
from training.progress_log import PROGRESS, Watcher, read_progress
from training.recipes.pretraining.recipe import (
    SIZES,
    SIZES_VOCABULARY,
    pretraining,
)
from training.recipes.pretraining.shapes import Shape
from training.recipes.pretraining.texts import Prepared
from training.reporting.pages import chart, write_page
from training.reporting.tracking import Tracking
from training.runtime.context import Progress
from training.stage_record import check_same_run
from training.stages import pretrain

DTYPE = "float32"  # equal on all machines


@dataclass(frozen=True)
class Point:
    """Compute and loss of a model after a number of tokens."""

    flops: float
    bits_per_byte: float


@dataclass(frozen=True)
class Size:
    """Training curve of one size; the last point is the end of training."""

    name: str
    parameters: int
    tokens: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class PowerLaw:
    """bits per byte = coefficient * flops ** -exponent.

    largest_error: largest relative error of a point.
    """

    coefficient: float
    exponent: float
    largest_error: float

    def at(self, flops: float) -> float:
        return float(self.coefficient * flops**-self.exponent)


def fit(points: Sequence[Point]) -> PowerLaw:
    """Fit a power law by least squares on the logarithms.

    Raises:
        ConfigError: fewer than two different amounts of compute.
    """
    if len({point.flops for point in points}) < 2:
        raise ConfigError(
            f"points: {len(points)}, a power law needs two amounts of compute",
            field="points",
            reason="TOO_SMALL",
        )
    flops = np.log([point.flops for point in points])
    design = np.stack((np.ones_like(flops), -flops), axis=1)
    (constant, exponent), *_ = np.linalg.lstsq(
        design, np.log([point.bits_per_byte for point in points]), rcond=None
    )
    law = PowerLaw(math.exp(constant), float(exponent), 0.0)
    error = max(abs(point.bits_per_byte / law.at(point.flops) - 1) for point in points)
    return PowerLaw(law.coefficient, law.exponent, error)


def steps_for_size(shape: Shape, vocabulary: int, tokens_per_parameter: float) -> int:
    """Return the number of steps for this number of tokens per parameter."""
    tokens = shape.parameters(vocabulary) * tokens_per_parameter
    return max(1, math.ceil(tokens / (shape.batch_rows * shape.context_tokens)))


def train_sizes(
    prepared: Prepared,
    tokens_per_parameter: float,
    work: Path,
    code_commit: str,
    watcher: Watcher,
    tracking: Tracking,
) -> list[Size]:
    """Train the three sizes, or resume after an interruption.

    Raises:
        ConfigError: the folder has sizes of other texts.
    """
    sizes = []
    for shape in SIZES:
        name = run_name(shape.name, tokens_per_parameter)
        steps = steps_for_size(shape, SIZES_VOCABULARY, tokens_per_parameter)
        config = pretraining(shape, prepared, steps, DTYPE, work / f"model-{name}", code_commit)
        check_same_run(config, work / name, other="name")
        manifest = run_stage(
            StageRun(name, pretrain.run, config), work, partial(watcher.move, shape.name), tracking
        )
        watcher.end(shape.name)
        sizes.append(
            course(shape.name, manifest.report["parameters"], read_progress(work / name / PROGRESS))
        )
    return sizes


def run_name(size: str, tokens_per_parameter: float) -> str:
    """Return the name of the run of a size, which is that of its folder."""
    return f"{size}-{tokens_per_parameter:g}"


def course(name: str, parameters: int, steps: Sequence[Progress]) -> Size:
    """Return the points at which bits per byte were measured; tokens are predicted tokens."""
    tokens, points = 0.0, []
    for step in steps:
        tokens += step.metrics["tokens"]
        if "bits_per_byte" in step.metrics:
            points.append(Point(6 * parameters * tokens, step.metrics["bits_per_byte"]))
    return Size(name, parameters, int(tokens), tuple(points))


def write_scaling(
    sizes: Sequence[Size], tokens_per_parameter: float, directory: Path, name: str = "scaling"
) -> PowerLaw:
    """Write NAME.json and NAME.html."""
    ends = [size.points[-1] for size in sizes]
    law = fit(ends)
    flops = [point.flops for point in ends]
    facts = {
        "sizes": sizes,
        "law": law,
        "tokens_per_parameter": tokens_per_parameter,
        "tenfold": Point(10 * max(flops), law.at(10 * max(flops))),
    }
    series = {
        size.name: [(math.log10(p.flops), p.bits_per_byte) for p in size.points] for size in sizes
    }
    series["power law"] = [
        (math.log10(f), law.at(f)) for f in np.geomspace(min(flops), max(flops), 20)
    ]
    drawn = chart("held-out bits per byte over log10 of FLOPs", series)
    write_page(directory / f"{name}.html", "scaling.html.jinja", facts | {"chart": drawn})
    rows = {
        "sizes": [asdict(size) for size in sizes],
        "law": asdict(law),
        "tokens_per_parameter": tokens_per_parameter,
    }
    (directory / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    return law
