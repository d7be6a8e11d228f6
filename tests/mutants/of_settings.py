"""Mutants of the validation of configs, and of the learning rate."""

from tests.mutants.places import OPTIM, RANGES
from tests.mutants.planting import Mutant

SETTINGS = (
    Mutant(
        "89 settings: an open bound is accepted",
        "training/runtime/ranges.py",
        "over = value > self.low if self.above else value >= self.low",
        "over = value >= self.low",
        RANGES,
    ),
    Mutant(
        "90 settings: gradient clip of 0 is accepted",
        "training/optim/config.py",
        "gradient_clip: Limit = 1.0",
        "gradient_clip: float = 1.0",
        RANGES,
    ),
    Mutant(
        "91 settings: beta of PPO may become negative",
        "training/stages/policy_config.py",
        "self.kl.horizon_samples <= minimum",
        "self.kl.horizon_samples < 0",
        RANGES,
    ),
    Mutant(
        "92 settings: cooldown starts in the warm-up",
        "training/optim/learner.py",
        "begin = max(warmup_steps, total_steps - round(total_steps * config.cooldown_fraction))",
        "begin = total_steps - round(total_steps * config.cooldown_fraction)",
        OPTIM,
    ),
    Mutant(
        "93 settings: bits per byte without a start token",
        "training/stages/pretrain.py",
        "if config.evaluate_every_steps and not shards.begin_ids:",
        "if config.evaluate_every_steps and shards.begin_ids is None:",
        ("tests/training/stages/test_pretrain.py",),
    ),
)
