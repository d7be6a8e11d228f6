"""GRPO: the advantage of a response is its score relative to other responses to the same prompt.

There is no critic. Dr. GRPO and DAPO are settings of this stage. `run` opens files. `Grpo.train` is
the algorithm: rollout, scores, advantages, minibatches, loss, step. Sampling, alarms and
checkpoints are in policy_loop.py.

Shapes: B rows (responses), R response columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.chat import load_chat
from training.losses.policy import Clip, k3, policy_loss, token_weights
from training.model.activation_checkpointing import checkpoint_activations
from training.optim.learner import Learner
from training.parallelism.layout import arrange_context, distribute_views
from training.rl.advantages import group_advantages, overlong_penalty, undecided_groups
from training.rl.experience import (
    Experience,
    MinibatchSums,
    batch_means,
    fresh_log_probs,
    minibatches,
    score_rollout,
)
from training.rl.networks import Networks, open_networks
from training.rl.rollout import Rollout
from training.rl.scores import Verifier
from training.runtime.context import RunContext
from training.runtime.machine import configure_device
from training.runtime.training_state import TrainingState
from training.stages.policy_config import GrpoConfig
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

STAGE = "grpo"


@dataclass(frozen=True)
class GrpoExperience(Experience):
    """Experience of GRPO. `reference_BR` is zero without a reference."""

    reference_BR: Tensor


def run(config: GrpoConfig, context: RunContext, verifier: Verifier | None = None) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics of every update: score, reward (score and penalties), zero_variance_groups and
    masked_responses (shares), entropy, clip_fraction, approximate_kl, eos_rate, response_tokens,
    policy_loss, minibatches, gradient_norm (of the last minibatch), sampler_mismatch, sampler_kl,
    learning_rate; kl and reference_loss with kl_coefficient; sft_loss with sft_mix; importance and
    importance_capped with importance_cap; gold_score with a judge; preference_score and
    verifiable_score (of the rows of each kind) with verifiable. Report: see publish_policy.
    """
    if done := finished_manifest(config.output_directory):
        return done
    check_scorers(config, verifier)
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast)
    prompts = read_data(config, load_chat(config.model_directory))
    sources = network_sources(config, prompts.vocabulary)
    networks = open_networks(sources, with_reference=config.kl_coefficient > 0)
    if config.checkpoint_activations:
        checkpoint_activations(networks.policy.decoder)
    distribute_views(networks.views, context.ranks)
    inputs = open_policy_inputs(config, prompts, networks.reward, verifier, autocast, context.ranks)
    with rollout_engines(networks.policy, sources, prompts, config, context) as engines:
        outcome = Grpo(networks, config, inputs).train(context, engines)
    return publish_policy(config, context, networks.policy, prompts, outcome)


class Grpo:
    """The policy with its optimizer. An update is `make_experience`, then `learn`."""

    def __init__(self, networks: Networks, config: GrpoConfig, inputs: PolicyInputs) -> None:
        self._networks, self._config, self._inputs = networks, config, inputs
        self._ranks, self._scoring = inputs.ranks, inputs.scoring(config)
        self._policy = Learner(
            networks.policy.named_parameters(), config.policy_optimizer, config.updates, self._ranks
        )
        self.state = TrainingState(
            {"policy": self._policy.named}, {"policy": self._policy.optimizer}, self._ranks
        )

    def train(self, context: RunContext, engines: EngineOfUpdate) -> Outcome:
        """Train until config.updates or the first alarm, from the newest checkpoint if any.

        Args:
            engines: returns the engine that samples an update.
        """
        prompts = self._inputs.prompts
        loop = PolicyLoop(STAGE, self.state, {}, prompts, self._config, context, engines)
        for update in loop.remaining_updates():
            rollout = loop.sample(update)
            experience, figures = self.make_experience(rollout)
            if loop.must_stop(update, figures):
                break
            figures |= self.learn(experience, update)
            loop.finish(update, experience, figures)
        return loop.outcome

    @torch.no_grad()
    def make_experience(self, rollout: Rollout) -> tuple[GrpoExperience, dict[str, float]]:
        """Compute scores and advantages of a rollout; return them with figures over all ranks."""
        config, mask_BR = self._config, rollout.response_mask_BR

        # Scores: log-probs of policy and reference, and the score of each response.
        with self._inputs.autocast():
            scores = score_rollout(
                self._networks.policy, self._networks.reference, rollout, self._scoring
            )
        rewards_B = scores.scores_B - config.missing_eos_penalty * (~rollout.ended_B).float()
        rewards_B = rewards_B - overlong_penalty(
            mask_BR, config.max_response_tokens, config.soft_overlong_tokens
        )

        # Advantages: the reward relative to the other responses to the same prompt, equal for all
        # tokens of a response. Masked rows still count in the mean and deviation of their group.
        group = config.samples_per_prompt
        advantages_B = group_advantages(rewards_B, group, config.standardise)
        undecided_B, live_B = undecided_groups(rewards_B, group), torch.ones_like(rollout.ended_B)
        # Groups with equal rewards have advantage 0, but their tokens would still count in the
        # normalisation of the loss and shrink the step (DAPO, arXiv 2503.14476).
        if config.filter_zero_variance:
            live_B = live_B & undecided_B
        if config.mask_missing_eos:
            live_B = live_B & rollout.ended_B
        experience = GrpoExperience(
            rollout=rollout,
            mask_BR=mask_BR * live_B[:, None],
            old_log_probs_BR=scores.log_probs_BR,
            advantages_BR=advantages_B[:, None] * mask_BR,
            correction_BR=scores.correction_BR,
            scores_B=scores.scores_B,
            fresh_BR=scores.fresh_BR,
            reference_BR=torch.zeros_like(scores.log_probs_BR)
            if scores.reference_BR is None
            else scores.reference_BR,
        )
        shares = {
            "zero_variance_groups": (~undecided_B).float(),
            "masked_responses": (~live_B).float(),
        }
        return experience, scores.figures | batch_means(
            {"reward": rewards_B, **shares}, self._ranks
        )

    def learn(self, experience: GrpoExperience, update: int) -> dict[str, float]:
        """Make one optimizer step per minibatch of unmasked rows; without such rows make no step.

        Return figures of the update.
        """
        config, policy, ranks = self._config, self._networks.policy, self._ranks
        names = ["policy_loss"]
        names += ["reference_loss"] if config.kl_coefficient > 0 else []
        names += ["sft_loss"] if config.sft_mix else []
        sums, seeds = MinibatchSums(names, ranks), (config.seed, update)
        for minibatch in minibatches(
            experience, config.epochs_per_update, config.minibatch_rows, seeds, ranks
        ):
            # Loss: the clipped surrogate of each token. The old log-probs are the trainer's own, so
            # the correction for the sampler multiplies the token weight and not the ratio.
            weights_BR = token_weights(
                minibatch.mask_BR, ranks, config.normalisation, config.constant_tokens or 0
            )
            with self._inputs.autocast():
                log_probs_BR = fresh_log_probs(policy, minibatch, config.temperature)
            surrogate = policy_loss(
                log_probs_BR,
                minibatch.old_log_probs_BR,
                minibatch.advantages_BR,
                weights_BR * minibatch.correction_BR,
                # A wider upper clip leaves room for tokens of low probability (DAPO).
                Clip(config.clip_low, config.clip_high),
            )
            losses = [surrogate.loss]
            if config.kl_coefficient > 0:
                # The KL is in the loss and not in the reward, as in the GRPO paper. There k3 has
                # the lower variance and is never negative.
                reference_BR = k3(log_probs_BR, minibatch.reference_BR)
                losses.append(config.kl_coefficient * (reference_BR * weights_BR).sum())
            # Both losses depend on the same log-probs: one backward pass for both.
            torch.autograd.backward(losses)
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

            # Step. The text of `at` is built for errors only: it would wait for the accelerator.
            at = partial("update {}, policy loss {:.4g}".format, update + 1, surrogate.loss)
            self._policy.step(update, at)
            sums.add(minibatch.mask_BR, surrogate, losses)
            if sums.kl_exceeds(config.early_stop_nats):
                break
        return sums.figures() | {
            "gradient_norm": self._policy.gradient_norm,
            "learning_rate": self._policy.rate(update),
        }
