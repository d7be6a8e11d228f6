"""The networks of policy learning, opened so that what can be shared is shared, and what is not
asked is not loaded.

With LoRA: one decoder in memory; policy, reward model and critic are its adapters, and the
reference is it with no adapter.
Without: a decoder each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.seeds import seed_of
from training.model.backbone import Backbone, trainable_backbone
from training.model.checkpoint import load_decoder
from training.model.head import ScalarHead
from training.model.lora import LoraConfig
from training.model.reward import (
    RewardModel,
    RewardModelError,
    ScalarModel,
    critic_from,
    is_adapter,
    load_reward_model,
)
from training.model.vocabulary import VocabularyMap, trim_vocabulary


@dataclass(frozen=True)
class Sources:
    """What the networks are made of. reward_directory: None where a verifier gives the scores."""

    model_directory: Path
    reward_directory: Path | None
    lora: LoraConfig | None
    vocabulary: VocabularyMap | None
    seed: int


@dataclass(frozen=True)
class Networks:
    """The policy learns; reference and reward model are frozen, and None where nobody asks them."""

    policy: Backbone
    reference: Backbone | None
    reward: RewardModel | None = None

    @property
    def views(self) -> tuple[Backbone | None, ...]:
        """All of them."""
        return (
            self.policy,
            self.reference,
            None if self.reward is None else self.reward.scalar.backbone,
        )


def open_networks(sources: Sources, with_reference: bool) -> Networks:
    """Load everything once.

    Raises:
        RewardModelError: a trimmed vocabulary, but the reward model has a decoder of its own and
            needs all ids; or it does not belong to the model (see load_reward_model).
    """
    base = load_decoder(sources.model_directory).requires_grad_(False)
    if sources.vocabulary is not None:
        if sources.reward_directory is not None and not is_adapter(sources.reward_directory):
            raise RewardModelError(
                "vocabulary_rows: needs a reward model that is an adapter on the same base",
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
    """A critic that starts as the reward model, or as the model itself with a head of zeros where
    there is none.
    """
    if networks.reward is not None and sources.reward_directory is not None:
        return critic_from(networks.reward, sources.reward_directory)
    shared = sources.lora is not None
    decoder = networks.policy.decoder if shared else load_decoder(sources.model_directory)
    backbone = trainable_backbone(
        decoder, "critic", sources.lora, seed_of(sources.seed, "lora", "critic")
    )
    return ScalarModel(backbone, ScalarHead(decoder.config.hidden_size))
