"""Networks of policy learning, loaded once and shared where possible.

With LoRA: one decoder in memory; policy, reward model and critic are its adapters, and the
reference is the decoder without an adapter. Without LoRA: a decoder per network. Unused networks
are not loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.seeds import seed_of
from training.model.backbone import Backbone, trainable_backbone
from training.model.checkpoint import load_decoder
from training.model.config import LoraConfig
from training.model.reward import (
    RewardModel,
    RewardModelError,
    ScalarHead,
    ScalarModel,
    critic_from,
    is_adapter,
    load_reward_model,
)
from training.model.vocabulary import VocabularyMap, trim_vocabulary


@dataclass(frozen=True)
class Sources:
    """Files and settings that the networks are loaded from.

    Attributes:
        reward_directory: None if a verifier computes the scores.
    """

    model_directory: Path
    reward_directory: Path | None
    lora: LoraConfig | None
    vocabulary: VocabularyMap | None
    seed: int


@dataclass(frozen=True)
class Networks:
    """Trained policy, frozen reference and reward model; None for unused networks."""

    policy: Backbone
    reference: Backbone | None
    reward: RewardModel | None = None

    @property
    def views(self) -> tuple[Backbone | None, ...]:
        """Return policy, reference and reward model."""
        return (
            self.policy,
            self.reference,
            None if self.reward is None else self.reward.scalar.backbone,
        )


def open_networks(sources: Sources, with_reference: bool) -> Networks:
    """Load all networks once.

    Raises:
        RewardModelError: the reward model does not belong to the model (see `load_reward_model`),
            or the vocabulary is trimmed and the reward model has its own decoder, which needs all
            ids.
    """
    base = load_decoder(sources.model_directory).requires_grad_(False)
    if sources.vocabulary is not None:
        if sources.reward_directory is not None and not is_adapter(sources.reward_directory):
            raise RewardModelError(
                "vocabulary_rows: the reward model must be an adapter on the same base model",
                field="vocabulary_rows",
                reason="CONFLICT",
            )
        trim_vocabulary(base, sources.vocabulary)
    reward = None
    if sources.reward_directory is not None:
        shared = base if sources.lora is not None else None
        reward = load_reward_model(sources.reward_directory, sources.model_directory, shared)
    apart = with_reference and sources.lora is None
    policy_decoder = load_decoder(sources.model_directory) if apart else base
    policy = trainable_backbone(
        policy_decoder, "policy", sources.lora, seed_of(sources.seed, "lora")
    )
    return Networks(policy, Backbone(base) if with_reference else None, reward)


def open_critic(networks: Networks, sources: Sources) -> ScalarModel:
    """Return a critic initialised from the reward model.

    Without a reward model, the critic is the model with a head of zeros.
    """
    if networks.reward is not None and sources.reward_directory is not None:
        return critic_from(networks.reward, sources.reward_directory)
    shared = sources.lora is not None
    decoder = networks.policy.decoder if shared else load_decoder(sources.model_directory)
    backbone = trainable_backbone(
        decoder, "critic", sources.lora, seed_of(sources.seed, "lora", "critic")
    )
    return ScalarModel(backbone, ScalarHead(decoder.config.hidden_size))
