"""Variants of the recipes nano and small.

As a program, `candidate_recipes.py VARIANT COMMAND …`, the command of training with a variant in
place of its recipe. Gate and canary are those of the recipe in all variants.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace

from training.__main__ import main
from training.optim.optimizers import OptimizerConfig
from training.recipes.custom import loop_recipe
from training.recipes.nano import nano
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.recipes.small import small
from training.rl.advantages import KlConfig


def equal(plan: Plan) -> LoopConfig:
    """Return nano with learning rates too low to change an answer."""
    config, still = nano(plan), OptimizerConfig(learning_rate=1e-6)
    ppo = replace(config.ppo, updates=2, policy_optimizer=still)
    return replace(config, sft=replace(config.sft, epochs=1, optimizer=still), ppo=ppo)


def reward_hacked(plan: Plan) -> LoopConfig:
    """Return nano with an exploitation of the reward model by PPO.

    There is no KL penalty, the second objective has no weight, and PPO is long. With a higher
    learning rate its alarm ends it before much is exploited.
    """
    config = nano(plan)
    ppo = replace(
        config.ppo,
        updates=40,
        checkpoint_every_updates=1,
        kl=KlConfig(initial=0.0),
        policy_optimizer=OptimizerConfig(learning_rate=6e-4),
    )
    if ppo.sft_mix is not None:
        ppo = replace(ppo, sft_mix=replace(ppo.sft_mix, coefficient=1e-6))
    return replace(config, ppo=ppo)


def short(plan: Plan) -> LoopConfig:
    """Return small with a third of its updates."""
    config = small(plan)
    return replace(config, ppo=replace(config.ppo, updates=20))


VARIANTS: Mapping[str, tuple[str, Recipe]] = {
    "good": ("nano", nano),
    "equal": ("nano", equal),
    "reward-hacked": ("nano", reward_hacked),
    "sycophantic": ("nano", nano),
    "short": ("small", short),
}

if __name__ == "__main__":
    loop_recipe.RECIPES = dict([VARIANTS[sys.argv[1]]])
    sys.exit(main(sys.argv[2:]))
