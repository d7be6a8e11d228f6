"""Measurements of made-up candidates for tests of the gate."""

import hashlib
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist, fmean, stdev

from training.artifacts.scores import ItemScore, ScoreStore, TaskScore
from training.evaluation.paired import Comparison, Paired, paired
from training.figures import Samples

PROBES = (
    "safety_refusal",
    "safety_over_refusal",
    "sycophancy_agreement",
    "sycophancy_flattery",
    "sycophancy_giving_way",
)
STYLES = ("style_length", "style_lists", "style_emoji", "style_hedging")


def paired_of(
    difference: float = 0.0, half: float = 0.05, *, rates: Sequence[float] | None = None
) -> Paired:
    """Return figures with this difference and half width, or those of win rates by prompt."""
    if rates is not None:
        names = [str(number) for number in range(len(rates))]
        return paired(rates, [1 - rate for rate in rates], names, share=True)
    mean = 0.5 + difference / 2
    return Paired(mean, 1 - mean, difference, difference - half, difference + half, 100, 100)


def shares(mean: float, count: int = 100) -> list[float]:
    """Return values of 0 and 1 with this mean, in an order without a pattern."""
    ones = round(mean * count)
    return [float(number * 37 % count < ones) for number in range(count)]


GOOD = Comparison(
    win_rate=paired_of(rates=shares(0.7)),
    retention=paired_of(0.02, 0.02),
    knowledge=paired_of(0.2, 0.1),
    refusals=paired_of(0.0, 0.1),
    sycophancy=paired_of(0.0, 0.1),
    candidate=Samples(14.0, 0.99),
    incumbent=Samples(12.0, 0.99),
)


def write_scores(
    store: ScoreStore,
    version: str,
    task: str,
    values: Sequence[float],
    *,
    chance: float | None = None,
    higher_is_better: bool = True,
    is_complete: bool = True,
    prompts: str = "",
) -> None:
    """Store the scores of a version on a task, with an item for each value."""
    items = [ItemScore(f"item-{number:04}", value) for number, value in enumerate(values)]
    names = " ".join(item.item for item in items)
    error = stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
    score = TaskScore(
        version,
        task,
        "accuracy",
        fmean(values),
        error,
        len(items),
        hashlib.sha256(names.encode()).hexdigest(),
        hashlib.sha256(f"{prompts} {names}".encode()).hexdigest(),
        higher_is_better=higher_is_better,
        chance=chance,
        is_complete=is_complete,
    )
    store.write(score, items)


def store_of(
    root: Path, candidate: Mapping[str, Sequence[float]], incumbent: Mapping[str, Sequence[float]]
) -> ScoreStore:
    """Return a store with the scores of two versions by task."""
    store = ScoreStore(root)
    for version, tasks in (("nano-1", candidate), ("nano-0", incumbent)):
        for task, values in tasks.items():
            write_scores(store, version, task, values)
    return store


def exact_drop_bound(items: int) -> float:
    """Return the exact 95 % bound of a share of which none of the items is an example."""
    return 1 - (1 - NormalDist().cdf(1.6448536)) ** (1 / items)
