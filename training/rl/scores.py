"""Where scores come from: a reward model, or a verifier that reads responses as text. PPO and GRPO
take either.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from training.model.reward import RewardModel
from training.optim.ranks import ALONE, Ranks
from training.rl.rollout import Rollout

Score = Callable[[Rollout], Tensor]
"""Scores of a rollout's responses, [B]. Rollout.tasks says which task each row's prompt poses."""


@dataclass(frozen=True)
class Answer:
    """A response to verify. ended: it stopped by itself, it was not cut off."""

    task: str
    text: str
    ended: bool


class Verifier(Protocol):
    """Judges by computation. What it raises ends the training: a verifier that fails is not a
    response that is wrong.
    """

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        """One score an answer, in their order."""


@runtime_checkable
class FigureSource(Protocol):
    """A verifier that knows more of its verdicts than their scores."""

    def take_figures(self) -> Mapping[str, float]:
        """Shares since they were last taken, always under the same names."""


def figure_source(verifier: Verifier | None) -> FigureSource | None:
    """The verifier, if it tells of its verdicts."""
    return verifier if isinstance(verifier, FigureSource) else None


def score_by_model(reward: RewardModel) -> Score:
    """The reward model's normalised score of prompt and response together."""

    def score(rollout: Rollout) -> Tensor:
        return reward.score(rollout.ids_BT, rollout.mask_BT)

    return score


def score_by_verifier(
    verifier: Verifier, decode: Callable[[Sequence[int]], str], ranks: Ranks = ALONE
) -> Score:
    """The verifier's scores of the responses as people would read them, by `decode`. Of the workers
    that read the same rows one asks: a verifier with a time limit may answer each otherwise.
    """

    def verified(rollout: Rollout) -> Tensor:
        answers = []
        here = rollout.to(torch.device("cpu"))
        for row, task in enumerate(here.tasks):
            ids = here.response_ids_BR[row, : int(here.response_mask_BR[row].sum())].tolist()
            answers.append(Answer(task, decode(ids), bool(here.ended_B[row])))
        scores = verifier(answers)
        if len(scores) != len(answers):
            raise ValueError(f"verifier: {len(scores)} scores for {len(answers)} answers")
        return torch.tensor(list(scores), dtype=torch.float32)

    def score(rollout: Rollout) -> Tensor:
        return ranks.agree(verified(rollout) if ranks.speaks else torch.zeros(len(rollout.tasks)))

    return score
