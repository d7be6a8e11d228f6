"""Scores of responses, from a reward model or from a verifier that reads them as text.

PPO and GRPO accept both.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from training.model.reward import RewardModel
from training.rl.rollout import Rollout
from training.runtime.ranks import ALONE, Ranks

Score = Callable[[Rollout], Tensor]
"""Scores of a rollout's responses, [B]. Rollout.tasks says which task each row's prompt poses."""


@dataclass(frozen=True)
class Answer:
    """Response to verify.

    Attributes:
        ended: the response ended by itself and was not truncated.
    """

    task: str
    text: str
    ended: bool


class Verifier(Protocol):
    """Scores responses by computation.

    Its exceptions end the training, because a failed verifier does not mean a wrong response.
    """

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        """Return one score per answer, in order."""


@runtime_checkable
class FigureSource(Protocol):
    """Verifier that reports more figures than its scores."""

    def take_figures(self) -> Mapping[str, float]:
        """Return fractions since the last call, always under the same names."""


def figure_source(verifier: Verifier | None) -> FigureSource | None:
    """Return the verifier if it is a `FigureSource`, else None."""
    return verifier if isinstance(verifier, FigureSource) else None


def is_verifiable(rollout: Rollout) -> Tensor:
    """Return True for each row with a task, [B], on the CPU."""
    return torch.tensor([bool(task) for task in rollout.tasks], device="cpu")


def score_mixed(preference: Score, verifier: Score, scale: float) -> Score:
    """Return a scorer of rows with a task by the verifier and of all others by the reward model.

    The reward model reads every row, because workers that share it must run the same number of
    forward passes, and may have different numbers of tasks.

    Args:
        scale: factor of the verifier's scores.
    """

    def score(rollout: Rollout) -> Tensor:
        scores_B = preference(rollout)
        rows = is_verifiable(rollout).nonzero()[:, 0]
        if len(rows):
            verified = scale * verifier(rollout.rows(rows))
            scores_B = scores_B.index_copy(0, rows.to(scores_B.device), verified.to(scores_B))
        return scores_B

    return score


def score_by_model(reward: RewardModel) -> Score:
    """Return a scorer with the normalised score of the reward model for prompt and response."""

    def score(rollout: Rollout) -> Tensor:
        return reward.score(rollout.ids_BT, rollout.mask_BT)

    return score


def score_by_verifier(
    verifier: Verifier, decode: Callable[[Sequence[int]], str], ranks: Ranks = ALONE
) -> Score:
    """Return a scorer that passes decoded responses to the verifier.

    Of workers with the same rows only one calls the verifier, because a verifier with a time limit
    may answer differently each time.
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
        return ranks.broadcast(
            verified(rollout) if ranks.is_first_peer else torch.zeros(len(rollout.tasks))
        )

    return score
