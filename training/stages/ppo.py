"""PPO (arXiv 1707.06347): a critic estimates the value of every token and is trained with the
policy.

Divergence from the initial policy lowers the reward (KL penalty, arXiv 1909.08593). `run` opens
files. `Ppo.train` is the algorithm: rollout, scores, advantages, minibatches, loss, step. Sampling,
alarms and checkpoints are in policy_loop.py.

Shapes: B rows (responses), R response columns, T columns of prompt and response.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.chat import load_chat
from training.losses.policy import Clip, policy_loss, token_weights, value_loss
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.reward import ScalarModel
from training.optim.learner import Learner
from training.parallelism.layout import arrange_context, distribute_views
from training.rl.advantages import (
    explained_variance,
    gae,
    next_beta,
    response_scores,
    token_rewards,
    whiten,
)
from training.rl.experience import (
    Experience,
    MinibatchSums,
    batch_means,
    fresh_log_probs,
    minibatches,
    row_chunks,
    score_rollout,
)
from training.rl.networks import open_critic, open_networks
from training.rl.rollout import Rollout, before_response
from training.rl.scores import Verifier
from training.runtime.context import RunContext
from training.runtime.machine import configure_device
from training.runtime.training_state import TrainingState
from training.stages.policy_config import PpoConfig
from training.stages.policy_inputs import (
    PolicyInputs,
    check_scorers,
    mixed_loss,
    network_sources,
    open_policy_inputs,
    read_data,
)
from training.stages.policy_loop import (
    EngineOfUpdate,
    Outcome,
    PolicyLoop,
    publish_policy,
    rollout_engines,
)

STAGE = "ppo"


@dataclass(frozen=True)
class PpoExperience(Experience):
    """Experience of PPO, [B, R], 0 where masked. Advantages are whitened over all ranks."""

    old_values_BR: Tensor
    returns_BR: Tensor


@dataclass(frozen=True)
class PpoNetworks:
    """Networks of PPO. Policy and critic are trained, the reference is frozen."""

    policy: Backbone
    reference: Backbone
    critic: ScalarModel


def run(config: PpoConfig, context: RunContext, verifier: Verifier | None = None) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics of every update: score, score_variance, clipped_scores (share of the scores at
    reward.score_clip or beyond), reward, kl, beta, entropy, clip_fraction,
    approximate_kl, eos_rate, response_tokens, explained_variance, policy_loss, value_loss,
    minibatches, gradient_norm and critic_gradient_norm (of the last minibatch), sampler_mismatch,
    sampler_kl, learning_rate; sft_loss with sft_mix; importance and importance_capped with
    importance_cap; gold_score with a judge; preference_score and verifiable_score (of the rows of
    each kind) with verifiable. Report: see publish_policy.
    """
    if done := finished_manifest(config.output_directory):
        return done
    check_scorers(config, verifier)
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast)
    prompts = read_data(config, load_chat(config.model_directory))
    sources = network_sources(config, prompts.vocabulary)
    opened = open_networks(sources, with_reference=True)
    assert opened.reference is not None
    networks = PpoNetworks(opened.policy, opened.reference, open_critic(opened, sources))
    if config.checkpoint_activations:
        checkpoint_activations(networks.policy.decoder, networks.critic.backbone.decoder)
    distribute_views((*opened.views, networks.critic.backbone), context.ranks)
    inputs = open_policy_inputs(config, prompts, opened.reward, verifier, autocast, context.ranks)
    with rollout_engines(networks.policy, sources, prompts, config, context) as engines:
        outcome = Ppo(networks, config, inputs).train(context, engines)
    return publish_policy(config, context, networks.policy, prompts, outcome)


class Ppo:
    """Policy and critic with their optimizers. An update is `make_experience`, then `learn`."""

    def __init__(self, networks: PpoNetworks, config: PpoConfig, inputs: PolicyInputs) -> None:
        self._networks, self._config, self._inputs = networks, config, inputs
        self._ranks, self._scoring = inputs.ranks, inputs.scoring(config)
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

    def train(self, context: RunContext, engines: EngineOfUpdate) -> Outcome:
        """Train until config.updates or the first alarm, from the newest checkpoint if any.

        Args:
            engines: returns the engine that samples an update.
        """
        config, prompts = self._config, self._inputs.prompts
        numbers = {"beta": config.kl.initial}
        loop = PolicyLoop(STAGE, self.state, numbers, prompts, config, context, engines)
        for update in loop.remaining_updates():
            beta = loop.numbers["beta"]
            rollout = loop.sample(update)
            experience, figures = self.make_experience(rollout, beta)
            if loop.must_stop(update, figures):
                break
            figures |= self.learn(experience, update) | {"beta": beta}
            # After the steps: every minibatch of an update has the same reward.
            loop.numbers["beta"] = next_beta(beta, figures["kl"], config.rows_per_update, config.kl)
            loop.finish(update, experience, figures)
        return loop.outcome

    @torch.no_grad()
    def make_experience(
        self, rollout: Rollout, beta: float
    ) -> tuple[PpoExperience, dict[str, float]]:
        """Compute scores and advantages of a rollout; return them with figures over all ranks.

        Args:
            beta: cost of a nat of KL to the reference, in units of the score.
        """
        shape, mask_BR, networks = self._config.reward, rollout.response_mask_BR, self._networks

        # Scores: values, log-probs of policy and reference, and the score of each response.
        with self._inputs.autocast():
            # Values come first: with one step per update the scoring retains the policy's graph,
            # and the critic's forward pass on top of that would raise the peak of memory.
            parts = []
            for rows in row_chunks(rollout, self._scoring.rows):
                part = rollout.rows(rows)
                values_BT = networks.critic.everywhere(part.ids_BT, part.mask_BT)
                parts.append(before_response(values_BT, part) * part.response_mask_BR)
            values_BR = torch.cat(parts)
            scores = score_rollout(networks.policy, networks.reference, rollout, self._scoring)
        assert scores.reference_BR is not None
        shaped_scores_B = response_scores(
            scores.scores_B, rollout.ended_B, shape.missing_eos_penalty, shape.score_clip
        )
        # The KL penalty is k1, the plain log-ratio, which is unbiased as a reward. The score is
        # added at the last real token, where the reward model has read the whole response.
        rewards_BR = token_rewards(
            shaped_scores_B, scores.log_probs_BR, scores.reference_BR, mask_BR, beta
        )

        # Advantages: GAE needs raw rewards and values. Only afterwards are advantages whitened, so
        # that the returns, which are the critic's targets, keep their scale.
        advantages_BR, returns_BR = gae(
            rewards_BR, values_BR, mask_BR, shape.discount, shape.gae_lambda
        )
        experience = PpoExperience(
            rollout=rollout,
            mask_BR=mask_BR,
            old_log_probs_BR=scores.log_probs_BR,
            advantages_BR=whiten(advantages_BR, mask_BR, self._ranks),
            correction_BR=scores.correction_BR,
            scores_B=scores.scores_B,
            fresh_BR=scores.fresh_BR,
            old_values_BR=values_BR,
            returns_BR=returns_BR,
        )
        deviations_B = scores.scores_B - scores.figures["score"]
        figures = batch_means(
            {
                "reward": rewards_BR.sum(1),
                "score_variance": deviations_B.square(),
                "clipped_scores": (scores.scores_B.abs() >= shape.score_clip).float(),
            },
            self._ranks,
        )
        figures["explained_variance"] = explained_variance(
            values_BR, returns_BR, mask_BR, self._ranks
        )
        return experience, scores.figures | figures

    def learn(self, experience: PpoExperience, update: int) -> dict[str, float]:
        """Make one optimizer step of policy and critic per minibatch; return figures."""
        config, policy, ranks = self._config, self._networks.policy, self._ranks
        names = ["policy_loss", "value_loss"]
        names += ["sft_loss"] if config.sft_mix else []
        sums, seeds = MinibatchSums(names, ranks), (config.seed, update)
        for minibatch in minibatches(
            experience, config.epochs_per_update, config.minibatch_rows, seeds, ranks
        ):
            # Loss of the policy: the clipped surrogate of each token. The old log-probs are the
            # trainer's own. The correction is the capped importance weight of trainer over sampler,
            # so that it multiplies the token weight and not the ratio.
            weights_BR = token_weights(minibatch.mask_BR, ranks)
            with self._inputs.autocast():
                log_probs_BR = fresh_log_probs(policy, minibatch, config.temperature)
            surrogate = policy_loss(
                log_probs_BR,
                minibatch.old_log_probs_BR,
                minibatch.advantages_BR,
                weights_BR * minibatch.correction_BR,
                Clip(config.clip, config.clip),
            )
            # Policy and critic have no trained parameter in common, so each loss has its own
            # backward pass, which frees its activations before the next forward pass.
            torch.autograd.backward(surrogate.loss)

            # Loss of the critic. The value at column t belongs to the state before token t: without
            # this shift the critic would see the token that it is to judge.
            with self._inputs.autocast():
                states_BT = self._networks.critic.everywhere(
                    minibatch.rollout.ids_BT, minibatch.rollout.mask_BT
                )
            values_BR = before_response(states_BT, minibatch.rollout)
            value = value_loss(
                values_BR,
                minibatch.old_values_BR,
                minibatch.returns_BR,
                weights_BR,
                config.value_clip,
            )
            torch.autograd.backward(value)
            losses = [surrogate.loss, value]
            if config.sft_mix is not None:
                with self._inputs.autocast():
                    mixed = mixed_loss(
                        policy,
                        self._inputs.prompts.mixed,
                        config.sft_mix,
                        (*seeds, sums.count),
                        ranks,
                    )
                torch.autograd.backward(mixed)
                losses.append(mixed)

            # Step of both networks.
            at = partial(
                "update {}, policy loss {:.4g}, value loss {:.4g}".format,
                update + 1,
                surrogate.loss,
                value,
            )
            self._policy.step(update, at)
            self._critic.step(update, at)
            sums.add(minibatch.mask_BR, surrogate, losses)
            if sums.kl_exceeds(config.early_stop_nats):
                break
        return sums.figures() | {
            "gradient_norm": self._policy.gradient_norm,
            "critic_gradient_norm": self._critic.gradient_norm,
            "learning_rate": self._policy.rate(update),
        }
