"""Reward model of the toy world, trained on noisy pairs; PPO optimises it against the truth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.training.rl.toy import HEADS, STOP, sentiment, toy_decoder, toy_prompts
from training.losses.preferences import bradley_terry, centring
from training.model.backbone import Backbone
from training.model.reward import RewardModel, ScalarHead, ScalarModel
from training.optim.learner import Learner
from training.optim.optimizers import OptimizerConfig
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.runtime.ranks import ALONE

PAIRS, HELD_OUT = 2560, 1024  # with 1,024 the gap to the ceiling is known within 0.02
BATCH, EPOCHS = 64, 2  # a third epoch starts to fit the noise
SHARPNESS = 6.0  # sharpness of labels: a perfect judge is right in three of four cases


@dataclass(frozen=True)
class Judged:
    """Trained reward model.

    Attributes:
        accuracy: on held-out labels.
        ceiling: accuracy of the truth on the same labels.
    """

    reward: RewardModel
    accuracy: float
    ceiling: float


def train_reward(seed: int) -> Judged:
    """Train with Bradley-Terry on pairs of responses of the untrained policy."""
    responses = sample_pairs(seed)
    gold_B2 = sentiment(responses).view(-1, 2)
    generator = torch.Generator().manual_seed(seed)
    chance_B = torch.sigmoid(SHARPNESS * (gold_B2[:, 0] - gold_B2[:, 1]))
    first_B = torch.rand(len(chance_B), generator=generator) < chance_B
    scalar = ScalarModel(Backbone(toy_decoder(seed + 7, heads=HEADS)), ScalarHead(32, seed=seed))
    learner = Learner(
        scalar.named_parameters(),
        OptimizerConfig(learning_rate=2e-3),
        EPOCHS * PAIRS // BATCH,
        ALONE,
    )
    for step in range(EPOCHS * PAIRS // BATCH):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % PAIRS
        chosen_B, rejected_B = ordered(scores(scalar, responses, rows), first_B[rows])
        loss = bradley_terry(
            chosen_B, rejected_B, torch.zeros(BATCH), torch.zeros(BATCH, dtype=torch.bool), BATCH
        )
        torch.autograd.backward(loss + 0.01 * centring(chosen_B, rejected_B, BATCH))
        learner.step(step)
    held_out = torch.arange(PAIRS, PAIRS + HELD_OUT)
    with torch.no_grad():
        found_B2 = scores(scalar, responses, held_out)
    rewards = [ordered(part, first_B[held_out]) for part in (found_B2, gold_B2[held_out])]
    accuracy, ceiling = (float(((a > b) + 0.5 * (a == b)).float().mean()) for a, b in rewards)
    for parameter in learner.parameters:
        parameter.requires_grad_(False)
    return Judged(
        RewardModel(scalar, float(found_B2.mean()), float(found_B2.std())), accuracy, ceiling
    )


def sample_pairs(seed: int) -> Rollout:
    """Sample two responses to each of PAIRS + HELD_OUT prompts."""
    prompts = toy_prompts(PAIRS + HELD_OUT, seed=seed).ids
    return CachedEngine(Backbone(toy_decoder(heads=HEADS)), (STOP,)).sample(
        SampleRequest.of(prompts, 2, 12, 1.0, list(range(len(prompts))))
    )


def scores(scalar: ScalarModel, responses: Rollout, pairs: Tensor) -> Tensor:
    """Return the scores of both responses of each pair, [B, 2]."""
    part = responses.rows(torch.stack((2 * pairs, 2 * pairs + 1), dim=1).flatten())
    return scalar.at_last(part.ids_BT, part.mask_BT).view(-1, 2)


def ordered(scores_B2: Tensor, first_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of the preferred and of the other response."""
    swapped_B2 = torch.where(first_B[:, None], scores_B2, scores_B2.flip(1))
    return swapped_B2[:, 0], swapped_B2[:, 1]
