"""Muon with AdamW: assignment of parameters, and single steps."""

import pytest
import torch
from torch import nn

from tests.training.rl.toy import toy_decoder
from training.model.backbone import trainable_backbone
from training.model.lora import LoraConfig
from training.optim.gradients import apply_gradients
from training.optim.optimizers import OptimizerConfig, build_optimizer
from training.runtime.ranks import ALONE

CONFIG = OptimizerConfig(algorithm="muon", learning_rate=0.1, weight_decay=0.1, gradient_clip=1e9)


def stepped(
    rows: int, columns: int, config: OptimizerConfig = CONFIG
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix's gradient, and the change by one step without decay."""
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(rows, columns, generator=generator)
    weight, bias = nn.Parameter(before.clone()), nn.Parameter(torch.zeros(3))
    gradient = torch.randn(rows, columns, generator=generator)
    weight.grad, bias.grad = gradient.clone(), torch.ones(3)
    optimizer = build_optimizer([("up.weight", weight), ("up.bias", bias)], config)
    apply_gradients(optimizer, [weight, bias], config.learning_rate, config.gradient_clip, ALONE)
    return gradient, before * (1 - config.learning_rate * config.weight_decay) - weight.detach()


def test_muon_gets_hidden_matrices_and_adamw_the_rest() -> None:
    decoder, head = toy_decoder(), nn.Linear(32, 1)
    named = [*decoder.named_parameters(), *head.named_parameters(prefix="head.score")]
    muon, matrices_of_adamw, rest = build_optimizer(named, CONFIG).param_groups
    assert "adjust_lr_fn" in muon
    assert len(muon["params"]) == 2 * 7
    assert [p.shape for p in matrices_of_adamw["params"]] == [head.weight.shape]
    assert any(p is decoder.model.embed_tokens.weight for p in rest["params"])
    assert [group["weight_decay"] for group in (muon, matrices_of_adamw, rest)] == [0.1, 0.1, 0.0]


def test_muon_gets_all_parameters_with_lora() -> None:
    backbone = trainable_backbone(
        toy_decoder().requires_grad_(False), "sft", LoraConfig(rank=4), seed=1
    )
    optimizer = build_optimizer(backbone.named_parameters(), CONFIG)
    assert ["adjust_lr_fn" in group for group in optimizer.param_groups] == [True]


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_step_is_orthogonal_and_as_large_as_that_of_adamw(
    shape: tuple[int, int],
) -> None:
    gradient, step = stepped(*shape)
    scale = CONFIG.learning_rate * 0.2 * max(shape) ** 0.5  # arXiv 2502.16982, equation 4
    # Five Newton-Schulz steps bring singular values near 1, but not exactly (Jordan 2024).
    values = torch.linalg.svdvals(step / scale)
    assert values.min() > 0.6
    assert values.max() < 1.25
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    polar = u @ v
    assert torch.nn.functional.cosine_similarity(step.flatten(), polar.flatten(), dim=0) > 0.98
    rms = float((step / CONFIG.learning_rate).square().mean().sqrt())
    assert rms == pytest.approx(0.2, abs=0.03)


def test_second_step_uses_nesterov_momentum() -> None:
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = build_optimizer([("up.weight", weight)], CONFIG)
    first, second = torch.eye(4), torch.eye(4).flip(0)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        apply_gradients(optimizer, [weight], 1e-6, 1e9, ALONE)
    # B1 = 0.05 G1, B2 = 0.95 B1 + 0.05 G2, and the update is 0.05 G2 + 0.95 B2: a sum of two
    # orthogonal permutations.
    looked_ahead = 0.05 * second + 0.95 * (0.95 * 0.05 * first + 0.05 * second)
    step = before * (1 - 1e-6 * 0.1) - weight.detach()
    u, _, v = torch.linalg.svd(looked_ahead)
    assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0) > 0.97
