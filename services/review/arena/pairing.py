"""Choice of the two models of a battle.

Pairs whose win rate is least known are drawn more often: with n votes of variance v, a further vote
reduces the standard error of the pair's win rate from sqrt(v / n) to sqrt(v / (n + 1)), and the
weight of a pair is this reduction. Source: Chiang et al. 2024, Chatbot Arena, arXiv 2403.04132,
section 5. Each pair counts one further vote, and its variance comes from the win rate with one win
on either side added (Laplace), so that a pair without votes has a finite weight, the largest of
all.
"""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PairCount:
    """Counted votes of a pair of models, in the alphabetical order of the names."""

    first_wins: int = 0
    second_wins: int = 0
    ties: int = 0

    @property
    def votes(self) -> int:
        return self.first_wins + self.second_wins + self.ties


Pair = tuple[str, str]


def weight(count: PairCount) -> float:
    """Return the expected reduction of the standard error by a further vote."""
    rate = (count.first_wins + count.ties / 2 + 1) / (count.votes + 2)
    spread = math.sqrt(rate * (1 - rate))
    return spread / math.sqrt(count.votes + 1) - spread / math.sqrt(count.votes + 2)


def draw_pair(
    models: Sequence[str], counts: Mapping[Pair, PairCount], source: random.Random
) -> Pair:
    """Draw two of at least two different models, in random order.

    Args:
        models: names of the models that take part.
        counts: votes by pair, each pair in alphabetical order.
        source: generator of random numbers.
    """
    pairs = list(itertools.combinations(sorted(models), 2))
    weights = [weight(counts.get(pair, PairCount())) for pair in pairs]
    first, second = source.choices(pairs, weights)[0]
    return (first, second) if source.random() < 0.5 else (second, first)
