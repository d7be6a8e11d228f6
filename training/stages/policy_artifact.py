"""Score functions and the output of a stage of policy training."""

from __future__ import annotations

import torch

from training.artifacts.manifest import Manifest
from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.checkpoint import require_positions
from training.model.reward import is_adapter, load_reward_model, require_one_tokenizer
from training.model.vocabulary import VocabularyMap
from training.parallelism.layout import distribute
from training.rl.networks import Networks, Sources
from training.rl.rollout import Rollout
from training.rl.scores import Score, Verifier, score_by_model, score_by_verifier
from training.runtime.context import RunContext
from training.runtime.ranks import Ranks
from training.stages.artifact import publish_model
from training.stages.config import PolicyConfig
from training.stages.policy_loop import Outcome
from training.stages.prompts import Prompts


def network_sources(config: PolicyConfig, vocabulary: VocabularyMap | None) -> Sources:
    """Return the artifacts and settings from which the networks are opened."""
    return Sources(
        config.model_directory, config.reward_model_directory, config.lora, vocabulary, config.seed
    )


def check_scorers(config: PolicyConfig, verifier: Verifier | None) -> None:
    """Check that exactly one source gives the scores, and that it has positions for the responses.

    Raises:
        ConfigError: both or neither of reward model and verifier, or too few positions.
    """
    if (config.reward_model_directory is None) == (verifier is None):
        given = "a reward model and a verifier" if verifier else "neither a model nor a verifier"
        raise ConfigError(
            f"reward_model_directory: {given} for the scores, not exactly one",
            field="reward_model_directory",
            reason="CONFLICT" if verifier else "MISSING",
        )
    reward_models = [
        config.judge_base_directory,
        config.reward_model_directory,
        config.judge_directory,
    ]
    for directory in reward_models:
        if directory is not None and not is_adapter(directory):
            require_positions(
                directory,
                max_prompt_tokens=config.max_prompt_tokens,
                max_response_tokens=config.max_response_tokens,
            )


def open_score(
    networks: Networks, verifier: Verifier | None, prompts: Prompts, ranks: Ranks
) -> Score:
    """Return the score function of the reward model, or of the verifier."""
    if verifier is not None:
        return score_by_verifier(verifier, prompts.decode, ranks)
    assert networks.reward is not None
    return score_by_model(networks.reward)


def open_gold(config: PolicyConfig, vocabulary: VocabularyMap | None, ranks: Ranks) -> Score | None:
    """Open the reward model for monitoring, from which nothing is learned.

    The model has its own weights, therefore reads ids of the full vocabulary. It is split like the
    other networks.

    Raises:
        RewardModelError: the tokenizer of the model or of its base differs from the policy's.
    """
    if config.judge_directory is None or config.judge_base_directory is None:
        return None
    require_one_tokenizer(config.judge_base_directory, config.model_directory)
    judge = load_reward_model(config.judge_directory, config.judge_base_directory)
    distribute(judge.scalar.backbone.decoder, ranks)
    full_ids = None if vocabulary is None else torch.tensor(vocabulary.kept)

    def score(rollout: Rollout) -> torch.Tensor:
        ids_BT = rollout.ids_BT if full_ids is None else full_ids[rollout.ids_BT]
        return judge.score(ids_BT, rollout.mask_BT)

    return score


def publish_policy(
    config: PolicyConfig, context: RunContext, policy: Backbone, prompts: Prompts, outcome: Outcome
) -> Manifest:
    """Write the model directory and its manifest.

    Report: updates, stopped_because ("" or the reason), exported_update, dropped_too_long, and the
    figures of the alarms with the prefixes first_ and last_.
    """
    figures = {
        name: outcome.numbers[name]
        for name in sorted(outcome.numbers)
        if name.startswith(("first_", "last_"))
    }
    report = {
        "updates": config.updates,
        "exported_update": outcome.exported_update,
        "stopped_because": outcome.stopped_because,
        "dropped_too_long": prompts.dropped_too_long,
        **figures,
    }
    judges = () if config.reward_model_directory is None else (config.reward_model_directory.name,)
    return publish_model(config, context, policy, report, judges)
