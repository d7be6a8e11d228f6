"""The four networks of PPO, opened so that what can be shared is shared.

With LoRA: one decoder in memory; policy, reward model and critic are its adapters, and the reference is it with no adapter.
Without: four decoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.order import seed_of
from training.model.backbone import Backbone, trainable_backbone
from training.model.checkpoint import load_decoder
from training.model.lora import LoraConfig
from training.model.reward import RewardModel, RewardModelError, ScalarModel, critic_from, is_adapter, load_reward_model
from training.model.vocabulary import VocabularyMap, trim_vocabulary


@dataclass(frozen=True)
class Players:
    """Policy and critic learn; reference and reward model are frozen."""

    policy: Backbone
    reference: Backbone
    critic: ScalarModel


def open_players(
    model_directory: Path,
    reward_directory: Path,
    lora: LoraConfig | None,
    vocabulary: VocabularyMap | None,
    seed: int,
) -> tuple[Players, RewardModel]:
    """Load everything once.

    Raises:
        RewardModelError: a trimmed vocabulary, but the reward model has a decoder of its own and needs all ids.
    """
    base = load_decoder(model_directory).requires_grad_(False)
    if vocabulary is not None:
        if not is_adapter(reward_directory):
            raise RewardModelError("vocabulary_rows: needs a reward model that is an adapter on the same base")
        trim_vocabulary(base, vocabulary)
    shared = base if lora is not None else None
    reward = load_reward_model(reward_directory, model_directory, shared)
    critic = critic_from(reward, reward_directory)
    policy_decoder = base if lora is not None else load_decoder(model_directory)
    policy = trainable_backbone(policy_decoder, "policy", lora, seed_of(seed, "lora"))
    return Players(policy, Backbone(base), critic), reward
