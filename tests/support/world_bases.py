"""Quick forms of the bases of nano's world, trained in a second."""

from dataclasses import replace

from training.recipes.nano_world.bases import Base
from training.runtime.context import Machine


def quick(base: Base) -> Base:
    """Return a base with two thin layers, few tokens and few texts."""
    thin = {
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    return replace(
        base,
        shape={**base.shape, **thin},
        openings=0,
        conversations=64,
        stories=16,
        fine_tuning=128,
        pretrain_steps=2,
        machine=Machine(threads=1),
    )
