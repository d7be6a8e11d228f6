"""How a stage of policy learning opens what judges it, and what it leaves behind."""

from __future__ import annotations

import torch

from training.manifest import Manifest
from training.model.backbone import Backbone
from training.model.reward import is_adapter, load_reward_model, require_one_tokenizer
from training.model.vocabulary import VocabularyMap
from training.optim.ranks import Ranks
from training.parallelism import distribute
from training.rl.networks import Networks, Sources
from training.rl.rollout import Rollout
from training.rl.scores import Score, Verifier, score_by_model, score_by_verifier
from training.stages.artifact import publish_model
from training.stages.context import ConfigError, RunContext
from training.stages.policy_loop import Outcome, PolicyConfig
from training.stages.positions import require_positions
from training.stages.prompts import Prompts


def network_sources(config: PolicyConfig, vocabulary: VocabularyMap | None) -> Sources:
    """What the networks are made of."""
    return Sources(
        config.model_directory, config.reward_model_directory, config.lora, vocabulary, config.seed
    )


def check_scorers(config: PolicyConfig, verifier: Verifier | None) -> None:
    """Exactly one may give the scores, and who reads what the policy writes must have positions for
    it. Raises: ConfigError.
    """
    if (config.reward_model_directory is None) == (verifier is None):
        both = "both it and a verifier" if verifier else "neither it nor a verifier"
        raise ConfigError(
            f"reward_model_directory: {both} would give the scores",
            field="reward_model_directory",
            reason="CONFLICT" if verifier else "MISSING",
        )
    readers = [config.judge_base_directory, config.reward_model_directory, config.judge_directory]
    for directory in readers:
        if directory is not None and not is_adapter(directory):
            require_positions(
                directory,
                max_prompt_tokens=config.max_prompt_tokens,
                max_response_tokens=config.max_response_tokens,
            )


def open_score(
    networks: Networks, verifier: Verifier | None, prompts: Prompts, ranks: Ranks
) -> Score:
    """The reward model's, or the verifier's."""
    if verifier is not None:
        return score_by_verifier(verifier, prompts.decode, ranks)
    assert networks.reward is not None
    return score_by_model(networks.reward)


def open_gold(config: PolicyConfig, vocabulary: VocabularyMap | None, ranks: Ranks) -> Score | None:
    """The judge that nothing is learned from. It has weights of its own, so it reads full ids; they
    are split as the others'.

    Raises:
        RewardModelError: it, or what it stands on, has another tokenizer than the policy.
    """
    if config.judge_directory is None or config.judge_base_directory is None:
        return None
    require_one_tokenizer(config.judge_base_directory, config.model_directory)
    judge = load_reward_model(config.judge_directory, config.judge_base_directory)
    distribute(judge.scalar.backbone.decoder, ranks)
    kept = None if vocabulary is None else torch.tensor(vocabulary.kept)

    def score(rollout: Rollout) -> torch.Tensor:
        ids_BT = rollout.ids_BT if kept is None else kept[rollout.ids_BT]
        return judge.score(ids_BT, rollout.mask_BT)

    return score


def publish_policy(
    config: PolicyConfig, context: RunContext, policy: Backbone, prompts: Prompts, outcome: Outcome
) -> Manifest:
    """The model directory, with updates, stopped_because ("" or the reason), exported_update,
    dropped_too_long, and first_ and last_ of the alarms' figures in its manifest.
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
