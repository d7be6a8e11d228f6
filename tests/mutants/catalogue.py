"""The mutants: first twenty classic defects of PPO and GRPO, then further ones.

A new mutant needs only an entry.
"""

from tests.mutants.of_policies import POLICIES
from tests.mutants.of_preferences import PREFERENCES
from tests.mutants.of_settings import SETTINGS
from tests.mutants.of_workers import WORKERS
from tests.mutants.places import (
    ADVANTAGES,
    ADVANTAGES_PY,
    DECODER,
    POLICY_LOSSES,
    POLICY_LOSSES_PY,
    PPO,
    PPO_PY,
    ROLLOUT,
    ROLLOUT_PY,
    TRANSFORMER_PY,
)
from tests.mutants.planting import Mutant

TWENTY = (
    Mutant(
        "01 GAE bootstraps past the last token",
        ADVANTAGES_PY,
        "next_value_B = torch.zeros_like(rewards_BR[:, 0])",
        "next_value_B = values_BR[:, -1]",
        ADVANTAGES,
    ),
    Mutant(
        "02 GAE recursion unmasked",
        ADVANTAGES_PY,
        "(delta_B + discount * gae_lambda * next_advantage_B) * mask_BR[:, t]",
        "delta_B + discount * gae_lambda * next_advantage_B",
        ADVANTAGES,
        equivalent="rewards and values are masked before, so every delta and advantage behind the "
        "last real token is 0",
    ),
    Mutant(
        "03 KL sign flipped in the reward",
        ADVANTAGES_PY,
        "rewards_BR = -beta * k1",
        "rewards_BR = beta * k1",
        ADVANTAGES,
    ),
    Mutant(
        "04 score on the last column",
        ADVANTAGES_PY,
        "rewards_BR[rows_B, last_real_column(mask_BR)] += scores_B",
        "rewards_BR[rows_B, -1] += scores_B",
        ADVANTAGES,
    ),
    Mutant(
        "05 score on the first token",
        ADVANTAGES_PY,
        "rewards_BR[rows_B, last_real_column(mask_BR)] += scores_B",
        "rewards_BR[rows_B, 0] += scores_B",
        ADVANTAGES,
    ),
    Mutant(
        "06 policy loss min to max",
        POLICY_LOSSES_PY,
        "-(torch.min(plain_BR, clipped_BR) * weights_BR)",
        "-(torch.max(plain_BR, clipped_BR) * weights_BR)",
        POLICY_LOSSES,
    ),
    Mutant(
        "07 trainer's log-probs ignore temperature",
        ROLLOUT_PY,
        "backbone.decoder, hidden_BRD, targets_BR, real, temperature, with_entropy",
        "backbone.decoder, hidden_BRD, targets_BR, real, 1.0, with_entropy",
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
        "torch.stack((mask_BR.sum().float(), (values_BR * mask_BR).sum()))",
        "torch.stack((torch.tensor(float(mask_BR.numel())), values_BR.sum()))",
        ADVANTAGES,
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
        ADVANTAGES_PY,
        "return scores_B.clamp(-clip, clip) - missing_eos_penalty",
        "return scores_B.clamp(-clip, clip) + missing_eos_penalty",
        ADVANTAGES,
    ),
    Mutant(
        "14 value clip max to min",
        POLICY_LOSSES_PY,
        "worse_BR = torch.max(",
        "worse_BR = torch.min(",
        POLICY_LOSSES,
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
        ADVANTAGES,
    ),
    Mutant(
        "17 old log-probs from the reference",
        PPO_PY,
        "old_log_probs_BR=scores.log_probs_BR,",
        "old_log_probs_BR=scores.reference_BR,",
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
        "scores.reference_BR, mask_BR, beta\n",
        "scores.reference_BR, mask_BR, 0.0\n",
        PPO,
    ),
)

MUTANTS = TWENTY + POLICIES + PREFERENCES + WORKERS + SETTINGS
