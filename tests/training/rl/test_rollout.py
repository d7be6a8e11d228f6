"""Sampling: ends of responses, log-probs, and independence of rows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.closeness import LOG_PROB_ROUNDING
from tests.training.model.oracle_models import oracle
from tests.training.rl.toy import STOP, TOKENS, toy_decoder
from training.decoding.sampling import choose
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.reward import ScalarHead, ScalarModel
from training.rl.rollout import CachedEngine, SampleRequest, before_response, response_log_probs

PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9, 10]]


@pytest.fixture
def backbone() -> Backbone:
    decoder = toy_decoder(seed=4)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3.0)  # far from uniform
    return Backbone(decoder)


def test_mask_ends_with_the_stop_token(backbone: Backbone) -> None:
    rollout = CachedEngine(backbone, (STOP,)).sample(
        SampleRequest.of(PROMPTS, 20, 16, 1.0, [1, 2, 3])
    )
    ids, mask = rollout.response_ids_BR, rollout.response_mask_BR
    assert 0 < rollout.ended_B.sum() < len(mask)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        assert mask[row].tolist() == [1] * length + [0] * (mask.shape[1] - length)
        stops = (ids[row, :length] == STOP).nonzero().flatten().tolist()
        assert stops == ([length - 1] if rollout.ended_B[row] else [])
        assert rollout.log_probs_BR[row, length:].abs().sum() == 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampler_and_trainer_have_equal_log_probs(backbone: Backbone, temperature: float) -> None:
    rollout = CachedEngine(backbone, (STOP,)).sample(
        SampleRequest.of(PROMPTS, 4, 12, temperature, [1, 2, 3])
    )
    with torch.no_grad():
        recomputed = response_log_probs(backbone, rollout, temperature)
    assert (recomputed - rollout.log_probs_BR).abs().max() < 1e-5
    assert rollout.log_probs_BR.min() < -0.5


def test_log_probs_are_conditional_on_all_earlier_tokens(backbone: Backbone) -> None:
    rollout = CachedEngine(backbone, (STOP,)).sample(SampleRequest.of([PROMPTS[0]], 1, 6, 1.0, [5]))
    with torch.no_grad():
        recomputed = response_log_probs(backbone, rollout, 1.0)
        for t in range(int(rollout.response_mask_BR.sum())):
            context = torch.tensor([[*PROMPTS[0], *rollout.response_ids_BR[0, :t].tolist()]])
            step = backbone.decoder.logits(backbone.hidden(context))[0, -1].log_softmax(-1)
            assert recomputed[0, t].item() == pytest.approx(
                step[rollout.response_ids_BR[0, t]].item(), abs=1e-5
            )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
@pytest.mark.parametrize("rows", [None, [7, 0, 4, 1]])
def test_shared_prompts_give_the_same_log_probs_and_gradients(
    family: str, rows: list[int] | None, tmp_path: Path
) -> None:
    oracle(family, tmp_path)
    decoder = load_decoder(tmp_path).requires_grad_(True)
    rollout = CachedEngine(Backbone(decoder), (STOP,)).sample(
        SampleRequest.of(PROMPTS, 3, 9, 1.0, [1, 2, 3])
    )
    assert rollout.copies == 3
    if rows is not None:  # as in a shuffled minibatch: one copy of a prompt, two of another
        rollout = rollout.rows(torch.tensor(rows))
    assert rollout.prompt_mask_BP.min() == 0
    found = []
    for read in (rollout, replace(rollout, copies=1)):
        decoder.zero_grad()
        log_probs_BR = response_log_probs(Backbone(decoder), read, 0.7)
        (log_probs_BR * torch.linspace(-1, 1, log_probs_BR.shape[1])).sum().backward()
        found.append(
            (log_probs_BR.detach(), {name: p.grad for name, p in decoder.named_parameters()})
        )
    (once, gradients), (each, expected) = found
    assert (once - each).abs().max() < LOG_PROB_ROUNDING
    for name, gradient in expected.items():
        assert gradient is not None
        # Small entries are sums of large terms, which are rounded.
        limit = LOG_PROB_ROUNDING * max(1.0, float(gradient.abs().max()))
        assert (gradients[name] - gradient).abs().max() < limit, name


def test_one_token_responses_need_only_the_prompt_pass(backbone: Backbone) -> None:
    rollout = CachedEngine(backbone, (STOP,)).sample(
        SampleRequest.of(PROMPTS, 2, 1, 1.0, [1, 2, 3])
    )
    with torch.no_grad():
        once = response_log_probs(backbone, rollout, 1.0)
    assert once.shape == (6, 1)
    assert (once - rollout.log_probs_BR).abs().max() < 1e-5


def test_sampled_frequencies_match_probabilities(backbone: Backbone) -> None:
    with torch.no_grad():
        logits = backbone.decoder.logits(backbone.hidden(torch.tensor([PROMPTS[0]])))[:, -1]
    expected = (logits[0] / 0.5).softmax(-1)
    noise = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = choose(logits.expand(40_000, -1), noise, 0.5)
    frequency = torch.bincount(drawn, minlength=TOKENS) / 40_000
    assert (frequency - expected).abs().max() < 0.01
    assert (expected - logits[0].softmax(-1)).abs().max() > 0.05  # another temperature would fail


def test_temperature_zero_is_greedy(backbone: Backbone) -> None:
    rollout = CachedEngine(backbone, (STOP,)).sample(SampleRequest.of([PROMPTS[0]], 1, 5, 0.0, [1]))
    context = list(PROMPTS[0])
    with torch.no_grad():
        for token in rollout.response_ids_BR[0, : int(rollout.response_mask_BR.sum())].tolist():
            best = (
                backbone.decoder.logits(backbone.hidden(torch.tensor([context])))[0, -1]
                .argmax()
                .item()
            )
            assert token == best
            context.append(token)


def test_rows_are_independent(backbone: Backbone) -> None:
    engine = CachedEngine(backbone, (STOP,))
    together = engine.sample(SampleRequest.of(PROMPTS, 2, 10, 1.0, [11, 12, 13]))
    alone = engine.sample(SampleRequest.of([PROMPTS[1]], 2, 10, 1.0, [12]))
    columns = alone.response_ids_BR.shape[1]
    assert torch.equal(together.response_ids_BR[2:4, :columns], alone.response_ids_BR)
    assert not torch.equal(alone.response_ids_BR[0], alone.response_ids_BR[1])


def test_impossible_tokens_are_never_sampled() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).expand(
        1000, -1
    )
    noise = torch.linspace(0, 1 - 1e-12, 1000, dtype=torch.float64)
    assert set(choose(logits, noise, 1.0).tolist()) == {1, 3}


def test_value_belongs_to_the_state_before_its_token(backbone: Backbone) -> None:
    critic = ScalarModel(backbone, ScalarHead(backbone.decoder.config.hidden_size, seed=1))
    rollout = CachedEngine(backbone, ()).sample(SampleRequest.of(PROMPTS, 1, 8, 1.0, [1, 2, 3]))
    changed = rollout.rows(torch.arange(3))
    changed.response_ids_BR[:, 4] = (changed.response_ids_BR[:, 4] + 1) % TOKENS
    with torch.no_grad():
        values, others = (
            before_response(critic.everywhere(r.ids_BT, r.mask_BT), r) for r in (rollout, changed)
        )
    assert values.shape == (3, 8)
    assert torch.equal(values[:, :5], others[:, :5])  # up to and including the state before token 4
    assert ((values - others)[:, 5:].abs() > 1e-6).all()


def test_score_is_read_at_the_last_real_token(backbone: Backbone) -> None:
    scalar = ScalarModel(backbone, ScalarHead(backbone.decoder.config.hidden_size, seed=1))
    ids = torch.tensor([[2, 3, 4, 5, 0, 0], [0, 0, 2, 3, 4, 5]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        alone = scalar.at_last(torch.tensor([[2, 3, 4, 5]]), torch.ones(1, 4))
        padded = scalar.at_last(ids, mask)
    assert padded.tolist() == pytest.approx([alone.item()] * 2, abs=1e-5)
