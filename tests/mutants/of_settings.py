"""Mutants of the validation of configs, and of the learning rate."""

from tests.mutants.places import OPTIM, RANGES
from tests.mutants.planting import Mutant

SETTINGS = (
    Mutant(
        "89 settings: a bound that is not in the range is let through",
        "training/ranges.py",
        "over = value > self.low if self.above else value >= self.low",
        "over = value >= self.low",
        RANGES,
    ),
    Mutant(
        "90 settings: a gradient may be clipped to nothing",
        "training/optim/adam.py",
        "gradient_clip: Limit = 1.0",
        "gradient_clip: float = 1.0",
        RANGES,
    ),
    Mutant(
        "91 settings: PPO's beta may turn negative",
        "training/stages/ppo.py",
        "self.kl.horizon_samples <= minimum",
        "self.kl.horizon_samples < 0",
        RANGES,
    ),
    Mutant(
        "92 settings: a cooldown begins in the warm-up",
        "training/optim/schedule.py",
        "begin = max(warmup_steps, total_steps - round(total_steps * config.cooldown_fraction))",
        "begin = total_steps - round(total_steps * config.cooldown_fraction)",
        OPTIM,
    ),
    Mutant(
        "93 settings: bits per byte where first tokens are never predicted",
        "training/stages/pretrain.py",
        "if config.evaluate_every_steps and not shards.begin_ids:",
        "if config.evaluate_every_steps and shards.begin_ids is None:",
        ("tests/training/stages/test_pretrain.py",),
    ),
)
