"""Noise of preference labels, and the accuracy that a perfect judge could reach on them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from training.data.examples import PairExample


def estimate_label_noise(pairs: Sequence[PairExample]) -> float | None:
    """Estimate the fraction of flipped labels from pairs that were judged more than once.

    Return None if there are no such pairs.

    Two independent labels with flip rate e disagree with probability 2 e (1 - e); the observed
    disagreement is solved for e. Pairs on which people really disagree count as noise, as they do
    for any judge. Ties and pairs of identical texts are excluded, because they have no order.
    """
    votes: defaultdict[tuple[str, tuple[str, ...]], list[bool]] = defaultdict(list)
    for pair in (pair for pair in pairs if pair.is_decided):
        first, second = sorted((pair.chosen, pair.rejected))
        votes[pair.prompt_id, (first, second)].append(pair.chosen == first)
    disagreeing = comparisons = 0
    for labels in votes.values():
        ups, count = sum(labels), len(labels)
        disagreeing += ups * (count - ups)
        comparisons += count * (count - 1) // 2
    if comparisons == 0:
        return None
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreeing / comparisons))) / 2


def noise_ceiling(label_noise: float) -> float:
    """Return the accuracy of a perfect judge against labels with this fraction flipped."""
    return 1 - label_noise
