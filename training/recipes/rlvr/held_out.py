"""How many held-out items a model answers rightly, with an interval; before and after by the same
items and the same seeds, so that the change is measured pair by pair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.data.chat import Message
from training.evaluation.answers import Sampling, Speaker
from training.evaluation.figures import Z_95, Estimate, change_bounds, clustered_mean, share_bounds
from training.runs import write_json
from training.verification.items import Item
from training.verification.scorer import Scorer, shares


@dataclass(frozen=True)
class Measured:
    """rewards: one an answer, items one after another, samples_per_item each. verdicts: shares of
    every outcome.
    """

    version: str
    samples_per_item: int
    rewards: tuple[float, ...]
    verdicts: dict[str, float]

    @property
    def right(self) -> Estimate:
        """The share of right answers; those to one item are not independent."""
        return clustered_mean(self.rewards, self._items)

    def gain(self, before: Measured) -> Estimate:
        """What was won since, answer by answer."""
        pairs = zip(self.rewards, before.rewards, strict=True)
        return clustered_mean([after - earlier for after, earlier in pairs], self._items)

    @property
    def _items(self) -> list[str]:
        return [str(place // self.samples_per_item) for place in range(len(self.rewards))]


def measure(
    directory: Path, items: Sequence[Item], scorer: Scorer, sampling: Sampling, kept: Path
) -> Measured:
    """What `kept` holds; measured where there is nothing."""
    if kept.exists():
        fields = json.loads(kept.read_text())
        return Measured(**{**fields, "rewards": tuple(fields["rewards"])})
    said = Speaker(directory).answer([[Message("user", item.prompt)] for item in items], sampling)
    verdicts = scorer.score_all(
        [items[answer.prompt] for answer in said], [answer.text for answer in said]
    )
    rewards = tuple(verdict.reward for verdict in verdicts)
    measured = Measured(directory.name, sampling.samples_per_prompt, rewards, shares(verdicts))
    write_json(kept, asdict(measured))
    return measured


def share_text(share: Estimate) -> str:
    """The share with the bounds of its 95 % interval."""
    return _text(share.value, *share_bounds(share, Z_95))


def change_text(change: Estimate) -> str:
    """The same of a change of shares."""
    return _text(change.value, *change_bounds(change, Z_95))


def _text(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
