"""HTML pages in a single file, without scripts and requests.

All text is escaped by the template, because models and users wrote some of it. The layout is
templates/page.html.jinja. Charts are points of SVG polylines, which the template draws, in pixels
with y downwards. The most important figures of a stage come first; the page folds the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.errors import ConfigError
from training.reporting.units import figure, label, quantity
from training.runtime.context import Progress

WIDTH, HEIGHT, PAD = 300, 110, 4
MOST_ENDS = 4  # last values in the title of a chart; of more lines the range
MAX_POINTS = 300  # more than a point per pixel only enlarges the file
FIRST = (
    *("loss", "bits_per_byte", "held_out_loss", "accuracy", "held_out_accuracy"),
    *(
        "score",
        "preference_score",
        "verifiable_score",
        "gold_score",
        "reward",
        "kl",
        "response_tokens",
        "entropy",
        "eos_rate",
        "clip_fraction",
    ),
    *("explained_variance", "zero_variance_groups", "margin", "up_reward", "down_reward"),
)


@dataclass(frozen=True)
class Line:
    """Polyline with its name and its points, "x,y x,y …"."""

    name: str
    points: str


@dataclass(frozen=True)
class Chart:
    """Lines in a coordinate system, with labels of the axes."""

    title: str
    lines: tuple[Line, ...]
    low: str
    high: str
    first: str
    last: str
    newest: str


@dataclass(frozen=True)
class Curves:
    """Charts of a stage, or of the same stage of several runs."""

    first: tuple[Chart, ...]
    others: tuple[Chart, ...]


def curves(courses: Mapping[str, Sequence[Progress]]) -> Curves:
    """Return a chart per figure, with a line per run.

    Args:
        courses: steps by the name of the run. With a single run each line has the name of the
            figure.
    """
    names = {name: None for steps in courses.values() for step in steps for name in step.metrics}
    charts = {}
    for name in names:
        lines = {
            (run if len(courses) > 1 else label(name)): [
                (s.step, s.metrics[name]) for s in steps if name in s.metrics
            ]
            for run, steps in courses.items()
        }
        if drawn := chart(label(name), lines, partial(quantity, name)):
            charts[name] = drawn
    first = tuple(charts[name] for name in FIRST if name in charts)
    return Curves(first, tuple(drawn for name, drawn in charts.items() if name not in FIRST))


def chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    text: Callable[[float], str] = figure,
) -> Chart | None:
    """Return a chart of (x, y) points by name; None without finite points.

    Args:
        text: formats a y value.
    """
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return None
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    lines = []
    for name, points in kept.items():
        stride = max(1, len(points) // MAX_POINTS)
        # A single point is visible as the round ends of a line of length 0.
        thinned = [*points[::stride], points[-1]]
        drawn = " ".join(
            f"{_scale(x, left, right, WIDTH):.1f},{HEIGHT - _scale(y, low, high, HEIGHT):.1f}"
            for x, y in thinned
        )
        lines.append(Line(name, drawn))
    ends = [points[-1][1] for points in kept.values()]
    several = f"{text(min(ends))} to {text(max(ends))}"
    newest = several if len(ends) > MOST_ENDS else ", ".join(map(text, ends))
    return Chart(title, tuple(lines), text(low), text(high), f"{left:g}", f"{right:g}", newest)


def _scale(value: float, low: float, high: float, size: int) -> float:
    share = 0.5 if high == low else (value - low) / (high - low)
    return PAD + share * (size - 2 * PAD)


def write_page(path: Path, template: str, facts: Mapping[str, object]) -> Path:
    """Write a page atomically.

    Raises:
        ConfigError: the path is a folder.
    """
    if path.is_dir():
        raise ConfigError(f"page: {path.name} is a folder", field="page", reason="EXISTS")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["figure"] = figure
    environment.globals |= {"width": WIDTH, "height": HEIGHT}
    partial.write_text(environment.get_template(template).render(facts), encoding="utf-8")
    partial.replace(path)
    return path
