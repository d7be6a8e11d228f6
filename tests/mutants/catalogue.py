"""The mutants: the twenty of reference/training.md, section 5, in its order, then ours for GRPO and what PPO has gained.

One entry is all that a new one takes.
"""

from tests.mutants.planting import Mutant

REWARDS = ("tests/training/rl/test_rewards.py",)
LOSSES = ("tests/training/rl/test_losses.py",)
ROLLOUT = ("tests/training/rl/test_rollout.py",)
GROUPS = ("tests/training/rl/test_advantages.py",)
CORRECTION = ("tests/training/rl/test_correction.py",)
MINIBATCHES = ("tests/training/rl/test_minibatches.py",)
DECODER = ("tests/training/model/test_transformer.py",)
PPO = ("tests/training/stages/test_ppo_algorithm.py",)
GRPO = ("tests/training/stages/test_grpo_algorithm.py",)
LOOP = ("tests/training/stages/test_policy_loop.py",)

ADVANTAGES_PY = "training/rl/advantages.py"
CORRECTION_PY = "training/rl/correction.py"
GRPO_PY = "training/stages/grpo.py"
LOSSES_PY = "training/rl/losses.py"
PPO_PY = "training/stages/ppo.py"
REWARDS_PY = "training/rl/rewards.py"
ROLLOUT_PY = "training/rl/rollout.py"
TRANSFORMER_PY = "training/model/transformer.py"

TWENTY = (
    Mutant(
        "01 GAE bootstraps past the last token",
        ADVANTAGES_PY,
        "next_value_B = torch.zeros_like(rewards_BR[:, 0])",
        "next_value_B = values_BR[:, -1]",
        REWARDS,
    ),
    Mutant(
        "02 GAE recursion unmasked",
        ADVANTAGES_PY,
        "(delta_B + discount * gae_lambda * next_advantage_B) * mask_BR[:, t]",
        "delta_B + discount * gae_lambda * next_advantage_B",
        REWARDS,
        equivalent="rewards and values are masked before, so behind the last real token every delta and every advantage is 0",
    ),
    Mutant(
        "03 KL sign flipped in the reward",
        REWARDS_PY,
        "rewards_BR = -beta * k1",
        "rewards_BR = beta * k1",
        REWARDS,
    ),
    Mutant(
        "04 score on the last column",
        REWARDS_PY,
        "rewards_BR[rows_B, last_real_column(mask_BR)] += scores_B",
        "rewards_BR[rows_B, -1] += scores_B",
        REWARDS,
    ),
    Mutant(
        "05 score on the first token",
        REWARDS_PY,
        "rewards_BR[rows_B, last_real_column(mask_BR)] += scores_B",
        "rewards_BR[rows_B, 0] += scores_B",
        REWARDS,
    ),
    Mutant(
        "06 policy loss min to max",
        LOSSES_PY,
        "-(torch.min(plain_BR, clipped_BR) * weights_BR)",
        "-(torch.max(plain_BR, clipped_BR) * weights_BR)",
        LOSSES,
    ),
    Mutant(
        "07 trainer's log-probs ignore temperature",
        ROLLOUT_PY,
        "chosen_log_probs(decoder, hidden_BRD, targets_BR, real, temperature)",
        "chosen_log_probs(decoder, hidden_BRD, targets_BR, real)",
        ROLLOUT,
    ),
    Mutant(
        "08 log-probs shifted by one",
        ROLLOUT_PY,
        "return state_BT[:, prompt_columns - 1 : -1]",
        "return state_BT[:, prompt_columns:]",
        ROLLOUT,
    ),
    Mutant(
        "09 value index off by one",
        PPO_PY,
        "parts.append(before_response(values_BT, part) * part.response_mask_BR)",
        "parts.append(values_BT[:, part.prompt_ids_BP.shape[1] :] * part.response_mask_BR)",
        PPO,
    ),
    Mutant(
        "10 EOS excluded from the response mask",
        ROLLOUT_PY,
        "masks.append(step.real_B.long())",
        "masks.append((step.real_B & step.running_B).long())",
        ROLLOUT,
    ),
    Mutant(
        "11 whitening ignores the mask",
        ADVANTAGES_PY,
        "count, total = ranks.sum(torch.stack((mask_BR.sum().float(), (values_BR * mask_BR).sum())))",
        "count, total = ranks.sum(torch.stack((torch.tensor(float(mask_BR.numel())), values_BR.sum())))",
        REWARDS,
    ),
    Mutant(
        "12 positions do not count real tokens only",
        TRANSFORMER_PY,
        "count_BS = ((mask_BS != 0).cumsum(dim=1) - 1).clamp(min=0)",
        "count_BS = torch.arange(mask_BS.shape[1]).expand_as(mask_BS)",
        DECODER,
    ),
    Mutant(
        "13 missing-EOS penalty's sign",
        REWARDS_PY,
        "return scores_B.clamp(-clip, clip) - missing_eos_penalty",
        "return scores_B.clamp(-clip, clip) + missing_eos_penalty",
        REWARDS,
    ),
    Mutant(
        "14 value clip max to min",
        LOSSES_PY,
        "worse_BR = torch.max(",
        "worse_BR = torch.min(",
        LOSSES,
    ),
    Mutant(
        "15 advantage negated",
        PPO_PY,
        "advantages_BR=whiten(advantages_BR, mask_BR, self._ranks),",
        "advantages_BR=-whiten(advantages_BR, mask_BR, self._ranks),",
        PPO,
    ),
    Mutant(
        "16 group advantage on the wrong axis",
        ADVANTAGES_PY,
        "advantages_PG = scores_PG - scores_PG.mean(dim=1, keepdim=True)",
        "advantages_PG = scores_PG - scores_PG.mean(dim=0, keepdim=True)",
        GROUPS,
    ),
    Mutant(
        "17 old log-probs from the reference",
        PPO_PY,
        "old_log_probs_BR=said.log_probs_BR,",
        "old_log_probs_BR=said.reference_BR,",
        PPO,
    ),
    Mutant(
        "18 KV cache's position offset dropped",
        TRANSFORMER_PY,
        "positions_BT = positions_of(mask_BS)[:, -tokens:]",
        "positions_BT = positions_of(mask_BS)[:, :tokens]",
        DECODER,
    ),
    Mutant(
        "19 packing mask dropped",
        TRANSFORMER_PY,
        "same_BTS = mask_BS[:, columns - tokens :, None] == mask_BS[:, None, :]",
        "same_BTS = (mask_BS[:, columns - tokens :, None] != 0) & (mask_BS[:, None, :] != 0)",
        DECODER,
    ),
    Mutant(
        "20 no KL at all",
        PPO_PY,
        'said.reference_BR, mask_BR, numbers["beta"])',
        "said.reference_BR, mask_BR, 0.0)",
        PPO,
    ),
)

OURS = (
    Mutant(
        "21 GAE reads what lies behind the mask",
        ADVANTAGES_PY,
        "rewards_BR, values_BR = rewards_BR * mask_BR, values_BR * mask_BR",
        "pass",
        REWARDS,
    ),
    Mutant(
        "22 PPO learns with values of the state after",
        PPO_PY,
        "values_BR = before_response(states_BT, part.rollout)",
        "values_BR = states_BT[:, part.rollout.prompt_ids_BP.shape[1] :]",
        PPO,
    ),
    Mutant(
        "23 PPO learns at temperature 1",
        PPO_PY,
        "fresh_log_probs(self._players.policy, part, config.temperature)",
        "fresh_log_probs(self._players.policy, part, 1.0)",
        PPO,
    ),
    Mutant(
        "24 beta moves against its target",
        "training/rl/kl_control.py",
        "error = measured_nats / config.target_nats - 1",
        "error = 1 - measured_nats / config.target_nats",
        REWARDS,
    ),
    Mutant(
        "25 GRPO: deviation on the wrong axis",
        ADVANTAGES_PY,
        "scores_PG.std(dim=1, keepdim=True)",
        "scores_PG.std(dim=0, keepdim=True)",
        GROUPS,
    ),
    Mutant(
        "26 GRPO: deviation of the whole batch",
        ADVANTAGES_PY,
        "scores_PG.std(dim=1, keepdim=True)",
        "scores_PG.std()",
        GROUPS,
    ),
    Mutant(
        "27 GRPO: rows of one group lie apart",
        ADVANTAGES_PY,
        "    scores_PG = scores_B.view(-1, group)\n    advantages_PG",
        "    scores_PG = scores_B.view(group, -1).T\n    advantages_PG",
        GROUPS,
    ),
    Mutant(
        "28 GRPO: filter off",
        GRPO_PY,
        "live_B = live_B & undecided_B",
        "pass",
        GRPO,
    ),
    Mutant(
        "29 GRPO: filter keeps the decided groups",
        ADVANTAGES_PY,
        "return (scores_PG != scores_PG[:, :1]).any(dim=1)",
        "return (scores_PG == scores_PG[:, :1]).all(dim=1)",
        GROUPS,
    ),
    Mutant(
        "30 GRPO: clip-higher swapped",
        LOSSES_PY,
        "ratio_BR.clamp(1 - clip.low, 1 + clip.high)",
        "ratio_BR.clamp(1 - clip.high, 1 + clip.low)",
        LOSSES,
    ),
    Mutant(
        "31 GRPO: clips passed the wrong way round",
        GRPO_PY,
        "Clip(config.clip_low, config.clip_high)",
        "Clip(config.clip_high, config.clip_low)",
        GRPO,
    ),
    Mutant(
        "32 GRPO: k3 towards the wrong side",
        LOSSES_PY,
        "difference = (reference - log_probs)",
        "difference = (log_probs - reference)",
        LOSSES,
    ),
    Mutant(
        "33 GRPO: the reference pushes away",
        GRPO_PY,
        "losses.append(config.kl_coefficient * (k3",
        "losses.append(-config.kl_coefficient * (k3",
        GRPO,
    ),
    Mutant(
        "34 GRPO: the sequence mean is the token mean",
        LOSSES_PY,
        "Normalisation.SEQUENCE: lengths_B1.clamp(min=1) * rows,",
        "Normalisation.SEQUENCE: tokens,",
        LOSSES,
    ),
    Mutant(
        "35 GRPO: the constant is forgotten",
        LOSSES_PY,
        "Normalisation.CONSTANT: constant_tokens * rows",
        "Normalisation.CONSTANT: tokens",
        LOSSES,
    ),
    Mutant(
        "36 GRPO: normalisation is not passed on",
        GRPO_PY,
        "token_weights(part.mask_BR, self._ranks, config.normalisation, config.constant_tokens or 0)",
        "token_weights(part.mask_BR, self._ranks)",
        GRPO,
    ),
    Mutant(
        "37 GRPO: old log-probs from the reference",
        GRPO_PY,
        "old_log_probs_BR=said.log_probs_BR,",
        "old_log_probs_BR=said.log_probs_BR if said.reference_BR is None else said.reference_BR,",
        GRPO,
    ),
    Mutant(
        "38 GRPO: missing-EOS penalty's sign",
        GRPO_PY,
        "rewards_B = said.scores_B - config.missing_eos_penalty",
        "rewards_B = said.scores_B + config.missing_eos_penalty",
        GRPO,
    ),
    Mutant(
        "39 importance upside down",
        CORRECTION_PY,
        "log_ratio_BR = (old_log_probs_BR - sampler_log_probs_BR)",
        "log_ratio_BR = (sampler_log_probs_BR - old_log_probs_BR)",
        CORRECTION,
    ),
    Mutant(
        "40 importance carries a gradient",
        CORRECTION_PY,
        "log_ratio_BR.exp().clamp(max=cap).detach()",
        "log_ratio_BR.exp().clamp(max=cap)",
        CORRECTION,
    ),
    Mutant(
        "41 GRPO: importance is measured, not applied",
        GRPO_PY,
        "weights_BR * part.correction_BR,",
        "weights_BR,",
        GRPO,
    ),
    Mutant(
        "42 PPO: importance is measured, not applied",
        PPO_PY,
        "weights_BR * part.correction_BR,",
        "weights_BR,",
        PPO,
    ),
    Mutant(
        "43 filtered rows are learned from",
        "training/rl/minibatches.py",
        "order_B = order_B[(~live_B[order_B]).long().argsort(stable=True)]",
        "pass",
        MINIBATCHES,
    ),
    Mutant(
        "44 every epoch has one order",
        "training/stages/policy_loop.py",
        'seed_of(config.seed, "minibatches", update, epoch)',
        'seed_of(config.seed, "minibatches")',
        LOOP,
    ),
)

MUTANTS = TWENTY + OURS
