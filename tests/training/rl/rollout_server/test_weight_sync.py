"""Comparison of served log-probs with those of the trainer."""

import math
from dataclasses import replace

import pytest
import torch

from tests.support.errors import refused
from tests.training.rl.toy import toy_networks
from training.rl.rollout_server.weight_sync import (
    FIXED_POSITIONS,
    FIXED_PROMPTS,
    TOLERANCES,
    DeadSyncError,
    FixedTokens,
    SamplerMismatchError,
    WeightSync,
    check_mismatch,
)
from training.runtime.ranks import ALONE
from training.serving.rollout_server import ServedType

OLD = -torch.linspace(0.5, 4.0, 32)
CHANGE = torch.sin(torch.arange(32.0))  # mean |change| 0.63


def after_update(served: torch.Tensor, kind: ServedType = ServedType.FLOAT32) -> None:
    """Check served log-probs after weights that change the trainer's by CHANGE."""
    sync = WeightSync(kind)
    sync.check("update-0", OLD, OLD)
    sync.check("update-1", OLD + CHANGE, served)


def test_server_with_the_new_weights_is_accepted() -> None:
    after_update(OLD + CHANGE)
    after_update(OLD + 0.98 * CHANGE, ServedType.BFLOAT16)


@pytest.mark.parametrize("share", [0.0, 0.49, -1.0, 1.5, math.nan])
def test_server_without_the_new_weights_is_refused(share: float) -> None:
    for kind in ServedType:
        if share < 1 or TOLERANCES[kind].mismatch < 0.1:
            with refused(DeadSyncError, field="rollout_server"):
                after_update(OLD + share * CHANGE, kind)


def test_kept_keys_and_values_are_noticed_in_float32() -> None:
    with refused(DeadSyncError):
        after_update(OLD + 0.87 * CHANGE)


def test_constant_difference_cancels_out() -> None:
    """Such as that of 8-bit weights, which would be larger than the change."""
    sync, error = WeightSync(ServedType.UINT8), 3 * torch.cos(torch.arange(32.0))
    sync.check("update-0", OLD, OLD + error)
    sync.check("update-1", OLD + CHANGE, OLD + CHANGE + error)
    with refused(DeadSyncError):
        sync.check("update-2", OLD, OLD + CHANGE + error)


def test_equal_weights_prove_nothing_and_small_changes_add_up() -> None:
    sync = WeightSync(ServedType.FLOAT32)
    step = TOLERANCES[ServedType.FLOAT32].change * 0.9
    sync.check("update-0", OLD, OLD)
    sync.check("update-1", OLD, OLD)
    sync.check("update-2", OLD + step, OLD)
    with refused(DeadSyncError) as caught:
        sync.check("update-3", OLD + 2 * step, OLD)
    assert "update-0" in str(caught.value)


def test_mismatch_limit_is_that_of_the_type_unless_set() -> None:
    check_mismatch(9e-4, ServedType.FLOAT32, None)
    check_mismatch(0.04, ServedType.BFLOAT16, None)
    check_mismatch(0.3, ServedType.FLOAT32, 0.3)
    for found, kind, limit in (
        (1.1e-3, ServedType.FLOAT32, None),
        (0.06, ServedType.BFLOAT16, None),
        (0.02, ServedType.BFLOAT16, 0.01),
        (math.nan, ServedType.UINT8, None),
    ):
        with refused(SamplerMismatchError, field="rollout_server.mismatch_limit_nats"):
            check_mismatch(found, kind, limit)


def test_fixed_tokens_are_spread_over_the_longest_prompts() -> None:
    prompts = [[n] * (n + 1) for n in range(1, 60)]
    fixed = FixedTokens.of(prompts)

    assert [len(ids) for ids in fixed.prompts] == [60, 59, 58, 57]
    assert fixed.positions[0] == (7, 14, 22, 29, 36, 44, 51, 59)
    assert len(fixed.tokens) == len(fixed.contexts) == FIXED_PROMPTS * FIXED_POSITIONS
    assert [len(context) for context in fixed.contexts[:2]] == [7, 14]
    assert FixedTokens.of([[1], [2]]).tokens == []
    assert FixedTokens.of([[1, 2]]).contexts == [(1,)]


def test_shards_in_bfloat16_are_compared_without_the_whole_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker of a large model has no room for all shards, so all workers compute in step."""
    policy = toy_networks().policy
    fixed = FixedTokens.of([[2, 3, 4, 5], [6, 7]])
    wide_N = fixed.trainer_log_probs(policy, ALONE)
    policy.decoder.requires_grad_(False).narrow_frozen()
    forwards: list[object] = []
    policy.decoder.register_forward_hook(lambda *_: forwards.append(_))
    narrow_N = fixed.trainer_log_probs(policy, ALONE)
    torch.testing.assert_close(narrow_N, wide_N, atol=0.05, rtol=0)
    assert not torch.equal(narrow_N, wide_N)
    other = fixed.trainer_log_probs(policy, replace(ALONE, rank=1))
    assert len(forwards) == 2 * len(fixed.prompts)
    assert other.shape == (0,)


def test_trainer_log_probs_are_those_of_the_tokens_after_their_contexts() -> None:
    policy = toy_networks().policy
    fixed = FixedTokens.of([[2, 3, 4, 5], [6, 7]])
    found_N = fixed.trainer_log_probs(policy, ALONE)
    with torch.no_grad():
        expected = [
            policy.decoder.logits(policy.hidden(torch.tensor([context]))[0, -1]).log_softmax(-1)[
                token
            ]
            for context, token in zip(fixed.contexts, fixed.tokens, strict=True)
        ]
    torch.testing.assert_close(found_N, torch.stack(expected), atol=1e-5, rtol=0)
