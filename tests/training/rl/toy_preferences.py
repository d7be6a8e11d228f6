"""Preferences of the toy world: pairs and thumbs on answers of the untrained policy, some flipped.

There are 1,024 pairs or thumbs, or a fifth of 812 answers with votes of angry users, half of an
earlier measurement.
"""

import copy
import random
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from tests.training.rl.toy import STOP, sentiment, toy_decoder, toy_prompts
from training.data.seeds import seed_of
from training.data.tensors import TokenisedExample
from training.model.backbone import Backbone
from training.optim.optimizers import OptimizerConfig
from training.rl.reference import PolicyAndReference, WatchConfig
from training.rl.rollout import CachedEngine, SampleRequest
from training.runtime.context import Lineage, Machine
from training.runtime.ranks import Ranks
from training.stages import dpo, kto


def toy_models(seed: int = 1) -> PolicyAndReference:
    policy = toy_decoder(seed)
    return PolicyAndReference(
        Backbone(policy), Backbone(copy.deepcopy(policy).requires_grad_(False))
    )


def toy_responses(
    count: int, each: int, seed: int = 5
) -> tuple[list[list[TokenisedExample]], list[list[float]]]:
    """Return `each` answers of the untrained policy to `count` prompts, with their true scores."""
    torch.set_num_threads(1)
    prompts = toy_prompts(count, seed).ids
    rollout = CachedEngine(Backbone(toy_decoder()), (STOP,)).sample(
        SampleRequest.of(
            prompts, each, 12, 1.0, [seed_of(seed, "toy", place) for place in range(count)]
        )
    )
    rows = zip(
        rollout.response_ids_BR.tolist(), rollout.response_mask_BR.sum(1).tolist(), strict=True
    )
    texts = [tuple(ids[:length]) for ids, length in rows]
    gold = sentiment(rollout).tolist()
    examples = [
        [TokenisedExample(tuple(prompt), text) for text in texts[place * each : (place + 1) * each]]
        for place, prompt in enumerate(prompts)
    ]
    return examples, [gold[place * each : (place + 1) * each] for place in range(count)]


def toy_pairs(count: int, flipped: float, seed: int = 5) -> dpo.Pairs:
    """Return pairs whose better answer is chosen, except for a fraction of flipped labels.

    Every sixteenth prompt is held out.
    """
    dice = random.Random(seed)
    pairs = []
    for (one, other), (first, second) in zip(*toy_responses(count, 2, seed), strict=True):
        chosen, rejected = (
            (one, other) if (first > second) != (dice.random() < flipped) else (other, one)
        )
        pairs.append(dpo.Pair(chosen, rejected))
    held_out = pairs[::16]
    return dpo.Pairs([pair for place, pair in enumerate(pairs) if place % 16], held_out, (STOP,))


def toy_thumbs(count: int, flipped: float, anger: float = 1.0, seed: int = 5) -> kto.Thumbs:
    """Return thumbs up for answers above the median, except for a fraction of flipped ones.

    Angry users vote `anger` times as often.
    """
    dice = random.Random(seed)
    examples, golds = toy_responses(count, 1, seed)
    middle = median(gold for (gold,) in golds)
    thumbs = [
        kto.Thumb(example, up)
        for (example,), (gold,) in zip(examples, golds, strict=True)
        if not (up := (gold > middle) != (dice.random() < flipped)) or dice.random() < 1 / anger
    ]
    return kto.Thumbs(
        [thumb for place, thumb in enumerate(thumbs) if place % 16], thumbs[::16], (STOP,)
    )


def toy_dpo(**changes: object) -> dpo.DpoConfig:
    settings: dict[str, object] = {
        "model_directory": Path("none"),
        "data_path": Path("none"),
        "output_directory": Path("none"),
        "lineage": Lineage("toy"),
        "epochs": 2,
        "batch_pairs": 32,
        "microbatch_pairs": 32,
        "optimizer": OptimizerConfig(learning_rate=2e-3, warmup_fraction=0.1),
        "watch": WatchConfig(
            prompts=128, max_response_tokens=12, length_floor_fraction=0.0, kl_ceiling_nats=1000.0
        ),
        "checkpoint_every_steps": 1000,
        "machine": Machine(threads=1),
    }
    return dpo.DpoConfig(**{**settings, **changes})  # type: ignore[arg-type]


def toy_kto(**changes: object) -> kto.KtoConfig:
    settings: dict[str, object] = {
        "model_directory": Path("none"),
        "data_path": Path("none"),
        "output_directory": Path("none"),
        "lineage": Lineage("toy"),
        "epochs": 3,
        "batch_rows": 32,
        "microbatch_rows": 32,
        "optimizer": OptimizerConfig(learning_rate=2e-3, warmup_fraction=0.1),
        "watch": WatchConfig(
            prompts=128, max_response_tokens=12, length_floor_fraction=0.0, kl_ceiling_nats=1000.0
        ),
        "checkpoint_every_steps": 1000,
        "machine": Machine(threads=1),
    }
    return kto.KtoConfig(**{**settings, **changes})  # type: ignore[arg-type]


def gold_of(models: PolicyAndReference, prompts: int = 256) -> tuple[float, float]:
    """Return mean score and mean length of the policy's answers to separate prompts."""
    rollout = CachedEngine(models.policy, (STOP,)).sample(
        SampleRequest.of(toy_prompts(prompts, 11).ids, 1, 12, 1.0, range(prompts))
    )
    return float(sentiment(rollout).mean()), float(rollout.response_mask_BR.sum(1).float().mean())


class Half(Ranks):
    """One of two workers, run alone.

    Records its part of each sum instead of adding the other part.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(rank, 2, rank, 2)
        object.__setattr__(self, "parts", [])

    def sum(self, value: Tensor) -> Tensor:
        self.parts.append(value.clone())
        return value


def gradients(models: PolicyAndReference) -> list[Tensor]:
    """Return the gradients of the policy, and clear them."""
    found = [
        parameter.grad.clone()
        for parameter in models.policy.decoder.parameters()
        if parameter.grad is not None
    ]
    models.policy.decoder.zero_grad()
    return found
