"""Simulated votes of models with known strengths."""

from collections.abc import Callable

import numpy as np
import pytest

from human_evaluation.battles import Battles

Simulate = Callable[..., Battles]


@pytest.fixture
def simulate() -> Simulate:
    """Return a function that draws votes; 20 % are ties."""

    def battles(
        strengths: np.ndarray,
        votes: int,
        rng: np.random.Generator,
        *,
        effects: np.ndarray | None = None,
        voter: np.ndarray | None = None,
        style: np.ndarray | None = None,
    ) -> Battles:
        """Return votes on random pairs.

        Args:
            strengths: log-odds of the models, [M].
            effects: differences of voters' opinions from the strengths, [voters, M].
            voter: [votes].
            style: coefficients of random features, [F].
        """
        count = len(strengths)
        first = rng.integers(0, count, votes)
        second = (first + rng.integers(1, count, votes)) % count
        logits = strengths[first] - strengths[second]
        if effects is not None and voter is not None:
            logits += effects[voter, first] - effects[voter, second]
        coefficients = np.zeros(0) if style is None else style
        features = rng.standard_normal((votes, len(coefficients)))
        chance = 1 / (1 + np.exp(-logits - features @ coefficients))
        # Half of the ties would have been victories, so that the mean score is the chance.
        chance, draw = np.clip(chance, 0.1, 0.9), rng.random(votes)
        score = np.where(draw < chance - 0.1, 1.0, np.where(draw < chance + 0.1, 0.5, 0.0))
        return Battles(
            models=tuple(f"model {model}" for model in range(count)),
            first=first,
            second=second,
            score=score,
            voter=np.full(votes, -1) if voter is None else voter,
            features=features,
        )

    return battles
