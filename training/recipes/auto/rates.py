"""Learning rates by the number of weights, between our measured smallest model and published ones.

Each stage has a power law through two points; tinker-cookbook has one in the width
(hyperparam_utils.get_lr). Rates for adapters are ten times those of full training, at any rank
(Schulman et al., "LoRA Without Regret", Thinking Machines Lab, 2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.model.config import LoraConfig

ADAPTER_FACTOR = 10.0
# Rank and scale of "LoRA Without Regret" for small data; adapters on all projections, as there.
LORA = LoraConfig(rank=16, alpha=32.0)
NANO_WEIGHTS = 0.85e6


@dataclass(frozen=True)
class Rate:
    """Power law through nano's measured rate and a published one.

    Attributes:
        nano: rate of the recipe nano.
        published: rate of a model with `weights` weights.
    """

    nano: float
    published: float
    weights: float
    source: str

    def at(self, weights: int, adapted: bool) -> float:
        """Return the rate for this number of weights, with two digits.

        Between the points and above; models below nano get nano's rate.
        """
        size = max(float(weights), NANO_WEIGHTS)
        low, high = NANO_WEIGHTS, self.weights
        ratio = self.published / self.nano
        share = math.log(size / low) / math.log(high / low)
        rate = self.nano * ratio**share
        return float(f"{rate * (ADAPTER_FACTOR if adapted else 1.0):.2g}")


# nano: docs/decisions/nano.md, all rows of the gate passed with 4 crowds.
SFT = Rate(5e-4, 5e-6, 8.0e9, "Tulu 3 8B, arXiv 2411.15124 (70B there: 2e-6; the law gives 1.7e-6)")
REWARD_MODEL = Rate(2e-4, 1e-5, 6.7e9, "Llama 2, arXiv 2307.09288, section 3.2.2")
POLICY = Rate(3e-4, 1e-6, 6.7e9, "Llama 2, arXiv 2307.09288, section 3.2.3")
CRITIC = Rate(1e-3, 9e-6, 8.0e9, "OpenRLHF, default of critic_learning_rate")
