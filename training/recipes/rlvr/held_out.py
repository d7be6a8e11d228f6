"""Accuracy on held-out items with an interval.

Before and after have the same items and seeds, so the change is measured in pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from durable_files.files import write_json
from training.data.chat import Message
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.figures import Z_95, Estimate, change_bounds, clustered_mean, share_bounds
from training.verification.items import Item
from training.verification.scorer import Scorer, shares


@dataclass(frozen=True)
class Measured:
    """Rewards of a model on held-out items.

    rewards: one per answer, samples_per_item for each item in order. verdicts: shares of every
    outcome.
    """

    version: str
    samples_per_item: int
    rewards: tuple[float, ...]
    verdicts: dict[str, float]

    @property
    def right(self) -> Estimate:
        """Return the share of correct answers; answers to one item are not independent."""
        return clustered_mean(self.rewards, self._items)

    def gain(self, before: Measured) -> Estimate:
        """Return the mean change since `before`, by answer."""
        pairs = zip(self.rewards, before.rewards, strict=True)
        return clustered_mean([after - earlier for after, earlier in pairs], self._items)

    @property
    def _items(self) -> list[str]:
        return [str(index // self.samples_per_item) for index in range(len(self.rewards))]


def measure(
    directory: Path, items: Sequence[Item], scorer: Scorer, sampling: Sampling, path: Path
) -> Measured:
    """Return the stored measurement at `path`, or measure and store it."""
    if path.exists():
        fields = json.loads(path.read_text())
        return Measured(**{**fields, "rewards": tuple(fields["rewards"])})
    answers = ChatModel(directory).answer(
        [[Message("user", item.prompt)] for item in items], sampling
    )
    verdicts = scorer.score_all(
        [items[answer.prompt] for answer in answers], [answer.text for answer in answers]
    )
    rewards = tuple(verdict.reward for verdict in verdicts)
    measured = Measured(directory.name, sampling.samples_per_prompt, rewards, shares(verdicts))
    write_json(path, asdict(measured))
    return measured


def share_text(share: Estimate) -> str:
    """Format a share with its 95 % interval."""
    return _text(share.value, *share_bounds(share, Z_95))


def change_text(change: Estimate) -> str:
    """Format a change of shares with its 95 % interval."""
    return _text(change.value, *change_bounds(change, Z_95))


def _text(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
