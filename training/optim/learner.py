"""One network that learns: its parameters, its optimizer, and its rate by step or update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import Ranks
from training.optim.schedule import learning_rate_at


class Learner:
    """total_updates: the rate's schedule; an update may take many steps, all at its rate."""

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
        self.gradient_norm = 0.0  # of the newest step, before clipping

    def rate(self, update: int) -> float:
        """Learning rate of an update, from 0."""
        return learning_rate_at(update, self._total, self._config)

    def step(self, update: int, at: str | Callable[[], str] = "") -> dict[str, float]:
        """Apply the gradients that have gathered. at: which step it is and its loss, for an error
        that says where gradients were not finite; or who is asked for it then, as an accelerator is
        waited for. Returns learning_rate and gradient_norm.
        """
        rate = self.rate(update)
        clip = self._config.gradient_clip
        self.gradient_norm = apply_gradients(
            self.optimizer, self.parameters, rate, clip, self._ranks, at
        )
        return {"learning_rate": rate, "gradient_norm": self.gradient_norm}
