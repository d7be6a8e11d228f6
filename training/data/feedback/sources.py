"""Origins of pairs and examples, and their weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum

from training.errors import ConfigError


class Source(StrEnum):
    """Origin of a pair or an example.

    Attributes:
        THUMBS: thumbs up and down.
        CORRECTION: better answer by the user of the conversation.
        WRITTEN: better answer by a reviewer.
        ARENA: vote on a battle.
        RANKING: ranking by a reviewer.
        RECIPE: pair of the recipe, not from feedback.
    """

    THUMBS = "thumbs"
    CORRECTION = "correction"
    WRITTEN = "written"
    ARENA = "arena"
    RANKING = "ranking"
    RECIPE = "recipe"


@dataclass(frozen=True)
class SourceWeights:
    """Factor on the weight of each pair and SFT example by origin, at least 0; 0 leaves them out.

    A thumb is repeated in every pair of its answer, a ranking is not. With equal factors thumbs
    hide the information of rankings: the accuracy of nano's reward model is 0.84 with both, and
    0.91 with 4 for rankings (docs/decisions/training-loop.md).
    """

    thumbs: float = 1.0
    correction: float = 1.0
    written: float = 1.0
    arena: float = 1.0
    ranking: float = 4.0

    def __post_init__(self) -> None:
        """Check the factors.

        Raises:
            ConfigError: `field` names the setting.
        """
        weights = asdict(self)
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(
                    f"source_weights.{name}: {weight} is not a number of at least 0",
                    field=f"source_weights.{name}",
                    reason="OUT_OF_RANGE",
                    limit="at least 0",
                )
        if not any(weights.values()):
            raise ConfigError(
                "source_weights: all are 0",
                field="source_weights",
                reason="OUT_OF_RANGE",
                limit="at least one above 0",
            )

    def of(self, source: Source) -> float:
        """Return the factor of a source; the recipe's own pairs always count."""
        return 1.0 if source is Source.RECIPE else float(getattr(self, source.value))
