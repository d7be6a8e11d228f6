"""Log-ratios of whole responses, and detection of collapsed responses."""

import pytest
import torch

from tests.training.rl.toy import STOP
from tests.training.rl.toy_preferences import toy_models
from training.data.tensors import TokenisedExample, response_batch
from training.rl.reference import PolicyAndReference, Watch, WatchConfig, sequence_log_probs
from training.runtime.ranks import ALONE

EXAMPLES = [TokenisedExample((2, 3, 4), (5, 6, STOP)), TokenisedExample((7, 8), (9, STOP))]


@pytest.fixture
def models() -> PolicyAndReference:
    """Return a policy that differs from its reference."""
    models = toy_models()
    with torch.no_grad():
        for parameter in models.policy.decoder.parameters():
            parameter.mul_(3.0)
    return models


def by_hand(models: PolicyAndReference, example: TokenisedExample, which: str) -> float:
    backbone = getattr(models, which)
    ids = torch.tensor([[*example.prompt, *example.response]])
    with torch.no_grad():
        log_probs = backbone.decoder.logits(backbone.hidden(ids))[0].log_softmax(-1)
    start = len(example.prompt)
    return sum(float(log_probs[start - 1 + i, token]) for i, token in enumerate(example.response))


def test_response_log_prob_is_the_sum_over_its_tokens_and_end(
    models: PolicyAndReference,
) -> None:
    with torch.no_grad():
        found = sequence_log_probs(models.policy, response_batch(EXAMPLES))
    assert found.tolist() == pytest.approx(
        [by_hand(models, example, "policy") for example in EXAMPLES], abs=1e-4
    )


def test_log_ratio_has_a_gradient_for_the_policy_only(
    models: PolicyAndReference,
) -> None:
    ratios = models.log_ratios(response_batch(EXAMPLES))
    wanted = [
        by_hand(models, example, "policy") - by_hand(models, example, "reference")
        for example in EXAMPLES
    ]
    assert ratios.tolist() == pytest.approx(wanted, abs=1e-4)
    assert min(abs(ratio) for ratio in wanted) > 0.05
    models.reference.decoder.requires_grad_(True)
    torch.autograd.backward(models.log_ratios(response_batch(EXAMPLES)).sum())
    assert all(parameter.grad is None for parameter in models.reference.decoder.parameters())
    assert all(parameter.grad is not None for parameter in models.policy.decoder.parameters())


def test_watch_measures_lengths_and_kl_deterministically(
    models: PolicyAndReference,
) -> None:
    prompts = [example.prompt for example in EXAMPLES] * 64
    watch = Watch(WatchConfig(max_response_tokens=12), prompts, (STOP,), 0)
    (seen, _), (again, _) = watch.look(models, ALONE), watch.look(models, ALONE)
    assert seen == again
    assert 3 < seen["response_tokens"] < 12
    assert seen["kl"] > 0.1
    at_start, _ = watch.look(PolicyAndReference(models.reference, models.reference), ALONE)
    assert at_start["kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("tokens", "kl", "reason"),
    [
        (9.0, 3.0, ""),
        (2.4, 3.0, "collapsed to 2.4 tokens, below the floor of 2.5"),
        (12.0, 20.5, "20.50 nats, above the ceiling of 20"),
    ],
)
def test_short_and_endless_responses_raise_alarms(tokens: float, kl: float, reason: str) -> None:
    alarm = Watch(WatchConfig(), [(2, 3)], (STOP,), 0).alarm(
        10.0, {"response_tokens": tokens, "kl": kl}
    )
    assert reason in alarm
    assert bool(alarm) == bool(reason)
