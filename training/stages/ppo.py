"""PPO: every token is judged by a critic that learns beside the policy, and drifting from the
starting policy costs reward.

`run` opens files; `Ppo` is what makes the loop PPO (policy_loop.py has sampling, alarms and
checkpoints): read `make_experience`, then `learn`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.data.chat import load_chat
from training.manifest import Manifest
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.reward import ScalarModel
from training.optim.adam import OptimizerConfig
from training.optim.learner import Learner
from training.parallelism import arrange_context, distribute_views
from training.ranges import Limit, OpenFraction
from training.rl.advantages import explained_variance, gae, whiten
from training.rl.experience import (
    Experience,
    batch_means,
    fresh_log_probs,
    row_chunks,
    score_rollout,
)
from training.rl.kl_control import MAX_RELATIVE_ERROR, next_beta
from training.rl.kl_control import KlConfig as KlConfig
from training.rl.losses import Clip, policy_loss, token_weights, value_loss
from training.rl.networks import open_critic, open_networks
from training.rl.rewards import RewardShape as RewardShape
from training.rl.rewards import response_scores, token_rewards
from training.rl.rollout import Rollout, before_response
from training.rl.scores import Verifier, figure_source
from training.stages.artifact import finished_manifest
from training.stages.context import ConfigError, RunContext
from training.stages.machine import configure_device
from training.stages.policy_artifact import (
    check_scorers,
    network_sources,
    open_gold,
    open_score,
    publish_policy,
)
from training.stages.policy_loop import (
    PolicyConfig,
    PolicyInputs,
    minibatch_sums,
    rollout_engines,
    train,
    train_epochs,
)
from training.stages.prompts import mixed_loss, read_data
from training.stages.state import TrainingState

STAGE = "ppo"


@dataclass(frozen=True)
class PpoConfig(PolicyConfig):
    """See PolicyConfig.

    Attributes:
        clip: how far the ratio of new to old policy may leave 1 before a token teaches no more; in
            (0, 1)
        value_clip: how far a value may leave its old one before it teaches the critic no more;
            above 0
        reward: of a response
        kl: what drifting from the reference costs
        kl_ceiling_nats: KL to the reference, in nats a response, above which training stops; above
            0
        critic_optimizer: of the critic
    """

    clip: OpenFraction = 0.2
    value_clip: Limit = 0.2
    reward: RewardShape = field(default_factory=RewardShape)
    kl: KlConfig = field(default_factory=KlConfig)
    kl_ceiling_nats: Limit = 20.0
    critic_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        least = MAX_RELATIVE_ERROR * self.rows_per_update
        if self.kl.target_nats is not None and self.kl.horizon_samples <= least:
            raise ConfigError(
                f"kl.horizon_samples: {self.kl.horizon_samples} is not above {least:g}, as one update of "
                f"{self.rows_per_update} rows could take beta to 0 or below",
                field="kl.horizon_samples",
                reason="TOO_SMALL",
                limit=f"above {least:g}",
            )


@dataclass(frozen=True)
class PpoExperience(Experience):
    """Advantages are whitened over the batch of all ranks. [B, R], 0 where masked."""

    old_values_BR: Tensor
    returns_BR: Tensor


@dataclass(frozen=True)
class PpoNetworks:
    """Policy and critic learn, the reference does not."""

    policy: Backbone
    reference: Backbone
    critic: ScalarModel


def run(config: PpoConfig, context: RunContext, verifier: Verifier | None = None) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics, every update: score, reward, kl, beta, entropy, clip_fraction, approximate_kl,
    eos_rate, response_tokens, explained_variance, policy_loss, value_loss, minibatches,
    gradient_norm and critic_gradient_norm (of the last one), sampler_mismatch, sampler_kl,
    learning_rate; sft_loss with sft_mix; importance and importance_capped with importance_cap;
    gold_score with a judge.
    Report: publish_policy().
    """
    if done := finished_manifest(config.output_directory):
        return done
    check_scorers(config, verifier)
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast)
    prompts = read_data(config, load_chat(config.model_directory))
    made_of = network_sources(config, prompts.vocabulary)
    opened = open_networks(made_of, with_reference=True)
    assert opened.reference is not None
    networks = PpoNetworks(opened.policy, opened.reference, open_critic(opened, made_of))
    if config.checkpoint_activations:
        checkpoint_activations(networks.policy.decoder, networks.critic.backbone.decoder)
    distribute_views((*opened.views, networks.critic.backbone), context.ranks)
    score = open_score(opened, verifier, prompts, context.ranks)
    gold = open_gold(config, prompts.vocabulary, context.ranks)
    algorithm = Ppo(
        networks,
        config,
        PolicyInputs(prompts, score, autocast, context.ranks, gold, figure_source(verifier)),
    )
    outcome = train(
        STAGE,
        algorithm,
        prompts,
        config,
        context,
        rollout_engines(networks.policy, made_of, prompts, config, context),
    )
    return publish_policy(config, context, networks.policy, prompts, outcome)


class Ppo:
    """Policy and critic with their optimizers."""

    def __init__(self, networks: PpoNetworks, config: PpoConfig, setting: PolicyInputs) -> None:
        self._networks, self._config, self._setting, self._ranks = (
            networks,
            config,
            setting,
            setting.ranks,
        )
        self._scoring = setting.scoring(config)
        self._policy = Learner(
            networks.policy.named_parameters(), config.policy_optimizer, config.updates, self._ranks
        )
        self._critic = Learner(
            networks.critic.named_parameters(), config.critic_optimizer, config.updates, self._ranks
        )
        self.state = TrainingState(
            {"policy": self._policy.named, "critic": self._critic.named},
            {"policy": self._policy.optimizer, "critic": self._critic.optimizer},
            self._ranks,
        )

    def initial_numbers(self) -> dict[str, float]:
        """beta is adjusted from update to update."""
        return {"beta": self._config.kl.initial}

    @torch.no_grad()
    def make_experience(
        self, rollout: Rollout, numbers: dict[str, float]
    ) -> tuple[PpoExperience, dict[str, float]]:
        """Score on the last token, KL cost on every one, values of the critic; then advantages and
        returns.
        """
        shape, mask_BR, networks = self._config.reward, rollout.response_mask_BR, self._networks
        with self._setting.autocast():
            values_BR = self._values(rollout)  # first: opinions may keep the policy's graph
            said = score_rollout(networks.policy, networks.reference, rollout, self._scoring)
        assert said.reference_BR is not None
        shaped_B = response_scores(
            said.scores_B, rollout.ended_B, shape.missing_eos_penalty, shape.score_clip
        )
        rewards_BR = token_rewards(
            shaped_B, said.log_probs_BR, said.reference_BR, mask_BR, numbers["beta"]
        )
        advantages_BR, returns_BR = gae(
            rewards_BR, values_BR, mask_BR, shape.discount, shape.gae_lambda
        )
        experience = PpoExperience(
            rollout=rollout,
            mask_BR=mask_BR,
            old_log_probs_BR=said.log_probs_BR,
            advantages_BR=whiten(advantages_BR, mask_BR, self._ranks),
            correction_BR=said.correction_BR,
            scores_B=said.scores_B,
            fresh_BR=said.fresh_BR,
            old_values_BR=values_BR,
            returns_BR=returns_BR,
        )
        more = batch_means({"reward": rewards_BR.sum(1)}, self._ranks)
        more["explained_variance"] = explained_variance(values_BR, returns_BR, mask_BR, self._ranks)
        return experience, said.figures | more

    def learn(
        self, experience: PpoExperience, update: int, numbers: dict[str, float]
    ) -> dict[str, float]:
        """Several epochs; then beta follows the KL that was measured."""
        config, beta = self._config, numbers["beta"]
        losses = (
            ("policy_loss", "value_loss", "sft_loss")
            if config.sft_mix
            else ("policy_loss", "value_loss")
        )
        figures = train_epochs(
            experience,
            lambda part, place: self._step(part, update, place),
            losses,
            config,
            update,
            self._ranks,
        )
        numbers["beta"] = next_beta(beta, numbers["last_kl"], config.rows_per_update, config.kl)
        norms = {
            "gradient_norm": self._policy.gradient_norm,
            "critic_gradient_norm": self._critic.gradient_norm,
        }
        return figures | norms | {"beta": beta, "learning_rate": self._policy.rate(update)}

    def _step(self, part: PpoExperience, update: int, place: int) -> Tensor:
        """One minibatch of both networks. Their losses touch no common parameter, so each has its
        own backward.
        """
        config = self._config
        weights_BR = token_weights(part.mask_BR, self._ranks)
        with self._setting.autocast():
            log_probs_BR = fresh_log_probs(self._networks.policy, part, config.temperature)
        policy = policy_loss(
            log_probs_BR,
            part.old_log_probs_BR,
            part.advantages_BR,
            weights_BR * part.correction_BR,
            Clip(config.clip, config.clip),
        )
        torch.autograd.backward(policy.loss)
        with self._setting.autocast():
            states_BT = self._networks.critic.everywhere(part.rollout.ids_BT, part.rollout.mask_BT)
        values_BR = before_response(states_BT, part.rollout)
        value = value_loss(
            values_BR, part.old_values_BR, part.returns_BR, weights_BR, config.value_clip
        )
        torch.autograd.backward(value)
        losses = [policy.loss, value]
        if config.sft_mix is not None:
            mixed = (
                self._setting.prompts.mixed,
                config.sft_mix,
                (config.seed, update, place),
                self._ranks,
            )
            with self._setting.autocast():
                losses.append(mixed_loss(self._networks.policy, *mixed))
            torch.autograd.backward(losses[-1])

        def at() -> str:
            return f"update {update + 1}, policy loss {policy.loss:.4g}, value loss {value:.4g}"

        self._policy.step(update, at)
        self._critic.step(update, at)
        return minibatch_sums(part.mask_BR, policy, *losses)

    def _values(self, rollout: Rollout) -> Tensor:
        """The critic's value of the state before each response token, [B, R], 0 where masked."""
        parts = []
        for rows in row_chunks(rollout, self._scoring.rows):
            part = rollout.rows(rows)
            values_BT = self._networks.critic.everywhere(part.ids_BT, part.mask_BT)
            parts.append(before_response(values_BT, part) * part.response_mask_BR)
        return torch.cat(parts)
