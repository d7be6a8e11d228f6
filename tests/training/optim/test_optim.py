"""Optimizer groups, schedule and gradients, one rank and two."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.optim import two_ranks
from tests.training.rl.toy import toy_decoder
from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import ALONE
from training.optim.schedule import learning_rate_at


def test_matrices_decay_and_embeddings_norms_and_biases_do_not() -> None:
    decoder = toy_decoder()
    optimizer = build_optimizer(decoder.named_parameters(), OptimizerConfig(weight_decay=0.1))
    decayed, kept = optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert any(p is decoder.model.embed_tokens.weight for p in kept["params"])
    assert len(decayed["params"]) == 2 * 7
    assert optimizer.defaults["eps"] == 1e-5


def test_frozen_parameters_are_left_out() -> None:
    decoder = toy_decoder().requires_grad_(False)
    decoder.model.norm.weight.requires_grad_(True)
    optimizer = build_optimizer(decoder.named_parameters(), OptimizerConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.2, schedule="linear")
    rates = [learning_rate_at(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)


def test_cosine_is_halfway_in_the_middle_and_constant_stays() -> None:
    cosine = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.0, final_fraction=0.0, schedule="cosine")
    assert learning_rate_at(50, 100, cosine) == pytest.approx(0.5)
    assert learning_rate_at(25, 100, cosine) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    constant = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.0, schedule="constant")
    assert learning_rate_at(99, 100, constant) == 1.0


@pytest.mark.parametrize(("field", "value"), [("schedule", "step"), ("warmup_fraction", 1.0)])
def test_settings_that_make_no_sense_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        OptimizerConfig(**{field: value})  # type: ignore[arg-type]


def test_a_gradient_beyond_the_clip_is_scaled_and_its_norm_reported() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([30.0, 40.0])
    norm = apply_gradients(torch.optim.SGD([weight], lr=1.0), [weight], learning_rate=0.5, clip=1.0, ranks=ALONE)
    assert norm == pytest.approx(50.0)
    assert weight.detach().tolist() == pytest.approx([-0.3, -0.4])
    assert weight.grad is None


def test_a_parameter_without_a_gradient_stays() -> None:
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    one.grad = torch.ones(1)
    apply_gradients(torch.optim.SGD([one, other], lr=0.1), [one, other], learning_rate=0.1, clip=10.0, ranks=ALONE)
    assert one.item() == pytest.approx(0.9)
    assert other.item() == 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on a free machine
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """SFT, PPO and GRPO on the same data with 1 and 2 gloo ranks: the same losses, within float order."""
    script = Path(__file__).with_name("two_ranks.py")
    other = subprocess.Popen([sys.executable, str(script), str(tmp_path), "1", "2"], cwd=Path.cwd())
    two_ranks.main(tmp_path, 0, 1)
    two_ranks.main(tmp_path, 0, 2)
    assert other.wait() == 0
    one, two = (torch.load(tmp_path / f"figures-{world}.pt", weights_only=True) for world in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
