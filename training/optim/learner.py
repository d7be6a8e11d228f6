"""Trained network with its parameters, its optimizer and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.schedule import learning_rate_at
from training.runtime.ranks import Ranks


class Learner:
    """Trained network.

    Args:
        total_updates: length of the schedule; all optimizer steps of an update have the same rate.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        total_updates: int,
        ranks: Ranks,
    ) -> None:
        self._config, self._total, self._ranks = config, total_updates, ranks
        self.named = list(named)
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = build_optimizer(named, config)
        self.gradient_norm = 0.0  # of the last step, before clipping

    def rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        return learning_rate_at(update, self._total, self._config)

    def step(self, update: int, at: str | Callable[[], str] = "") -> dict[str, float]:
        """Apply the accumulated gradients; return learning_rate and gradient_norm.

        Args:
            at: description of the step for an error about gradients, or a function that returns it.
                A function avoids waiting for the accelerator.
        """
        rate = self.rate(update)
        clip = self._config.gradient_clip
        self.gradient_norm = apply_gradients(
            self.optimizer, self.parameters, rate, clip, self._ranks, at
        )
        return {"learning_rate": rate, "gradient_norm": self.gradient_norm}
