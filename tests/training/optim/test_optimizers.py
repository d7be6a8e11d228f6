"""Groups, schedule and gradients of optimizers, on one rank and two."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.errors import refused
from tests.training.rl.toy import toy_decoder
from tests.training.workers import run_workers
from training.errors import ConfigError
from training.optim.config import ALGORITHMS
from training.optim.gradients import NonFiniteError, apply_gradients
from training.optim.learner import learning_rate_at
from training.optim.optimizers import OptimizerConfig, build_optimizer
from training.runtime.ranks import ALONE
from training.runtime.training_state import TrainingState


def test_matrices_decay_and_embeddings_norms_and_biases_do_not() -> None:
    decoder = toy_decoder()
    optimizer = build_optimizer(decoder.named_parameters(), OptimizerConfig(weight_decay=0.1))
    decayed, kept = optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert any(p is decoder.model.embed_tokens.weight for p in kept["params"])
    assert len(decayed["params"]) == 2 * 7
    assert optimizer.defaults["eps"] == 1e-5


def test_frozen_parameters_are_excluded() -> None:
    decoder = toy_decoder().requires_grad_(False)
    decoder.model.norm.weight.requires_grad_(True)
    optimizer = build_optimizer(decoder.named_parameters(), OptimizerConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_rate_warms_up_and_decays_to_its_floor() -> None:
    config = OptimizerConfig(
        learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.2, schedule="linear"
    )
    rates = [learning_rate_at(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)


def test_cosine_is_halfway_in_the_middle_and_constant_stays() -> None:
    cosine = OptimizerConfig(
        learning_rate=1.0, warmup_fraction=0.0, final_fraction=0.0, schedule="cosine"
    )
    assert learning_rate_at(50, 100, cosine) == pytest.approx(0.5)
    assert learning_rate_at(25, 100, cosine) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    constant = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.0, schedule="constant")
    assert learning_rate_at(99, 100, constant) == 1.0


def test_wsd_decays_only_at_the_end_linearly_or_by_a_root() -> None:
    config = OptimizerConfig(
        learning_rate=1.0,
        schedule="wsd",
        warmup_steps=4,
        cooldown_fraction=0.25,
        final_fraction=0.2,
        cooldown="linear",
    )
    rates = [learning_rate_at(step, 100, config) for step in range(101)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert set(rates[4:76]) == {1.0}
    assert rates[80] == pytest.approx(1 - 0.8 * 5 / 25)
    assert rates[100] == pytest.approx(0.2)
    root = replace(config, cooldown="sqrt", final_fraction=0.0)
    assert learning_rate_at(84, 100, root) == pytest.approx(1 - math.sqrt(9 / 25))
    assert learning_rate_at(100, 100, root) == pytest.approx(0.0)


@pytest.mark.parametrize("steps", [5, 7, 10, 100])
@pytest.mark.parametrize(
    "warm_up", [{"warmup_fraction": 0.5}, {"warmup_steps": 4}, {"warmup_steps": 500}]
)
def test_rate_is_continuous_between_warm_up_and_cooldown(
    steps: int, warm_up: dict[str, Any]
) -> None:
    config = OptimizerConfig(
        learning_rate=1.0,
        schedule="wsd",
        cooldown_fraction=0.5,
        cooldown="linear",
        final_fraction=0.0,
        **warm_up,
    )
    rates = [learning_rate_at(step, steps, config) for step in range(steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if max(rates) == 1:
        assert rates[peak + 1] == 1, "the cooldown begins at the peak"


def test_cooldown_within_the_warm_up_is_rejected() -> None:
    with refused(ConfigError, field="cooldown_fraction", reason="TOO_LARGE", limit="at most 0.5"):
        OptimizerConfig(schedule="wsd", warmup_fraction=0.5, cooldown_fraction=0.8)
    OptimizerConfig(schedule="cosine", warmup_fraction=0.5, cooldown_fraction=0.8)


def test_stable_phase_is_independent_of_the_run_length() -> None:
    config = OptimizerConfig(schedule="wsd", warmup_steps=10)
    assert [learning_rate_at(s, 100, config) for s in range(80)] == [
        learning_rate_at(s, 300, config) for s in range(80)
    ]


def test_two_steps_of_adamw_equal_values_computed_by_hand() -> None:
    config = OptimizerConfig(weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-5)
    weight = nn.Parameter(torch.tensor([[2.0]]))
    optimizer = build_optimizer([("up.weight", weight)], config)
    first, second, value = 0.0, 0.0, 2.0
    for step, gradient in ((1, 0.5), (2, -0.25)):
        weight.grad = torch.tensor([[gradient]])
        apply_gradients(optimizer, [weight], learning_rate=0.01, clip=10.0, ranks=ALONE)
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        adaptive = first / (1 - 0.9**step) / (math.sqrt(second / (1 - 0.95**step)) + 1e-5)
        value = value * (1 - 0.01 * 0.1) - 0.01 * adaptive
        assert weight.item() == pytest.approx(value, abs=1e-6)


def test_two_steps_of_adam_divide_the_weight_decay_by_the_root_of_the_squares() -> None:
    config = OptimizerConfig(
        algorithm="adam", weight_decay=0.1, betas=(0.8, 0.9), epsilon=1e-5, gradient_clip=10.0
    )
    first, second, value = 0.0, 0.0, 2.0
    stepped = values_after(config, value, (0.5, -0.25))
    for step, gradient in ((1, 0.5), (2, -0.25)):
        decayed = gradient + 0.1 * value
        first, second = 0.8 * first + 0.2 * decayed, 0.9 * second + 0.1 * decayed**2
        value -= 0.01 * first / (1 - 0.8**step) / (math.sqrt(second / (1 - 0.9**step)) + 1e-5)
        assert stepped[step - 1] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_of_sgd_sum_decayed_gradients(momentum: float) -> None:
    config = OptimizerConfig(algorithm="sgd", weight_decay=0.1, momentum=momentum)
    total, value = 0.0, 2.0
    stepped = values_after(config, value, (0.5, -0.25, 0.1))
    for step, gradient in enumerate((0.5, -0.25, 0.1)):
        total = momentum * total + gradient + 0.1 * value
        value -= 0.01 * total
        assert stepped[step] == pytest.approx(value, abs=1e-6)


def values_after(
    config: OptimizerConfig, start: float, gradients: tuple[float, ...]
) -> list[float]:
    """Return the value of a single weight after each step at a rate of 0.01."""
    weight = nn.Parameter(torch.tensor([[start]]))
    optimizer = build_optimizer([("up.weight", weight)], config)
    values = []
    for gradient in gradients:
        weight.grad = torch.tensor([[gradient]])
        apply_gradients(optimizer, [weight], learning_rate=0.01, clip=10.0, ranks=ALONE)
        values.append(weight.item())
    return values


@pytest.mark.parametrize(
    ("algorithm", "momentum"), [*((name, 0.95) for name in ALGORITHMS), ("sgd", 0.0)]
)
def test_saved_state_continues_bit_identically_and_has_the_planned_numbers(
    tmp_path: Path, algorithm: str, momentum: float
) -> None:
    config = OptimizerConfig(algorithm=algorithm, momentum=momentum, weight_decay=0.1)

    def trained(
        decoder_seed: int, steps: range, resumed_from: Path | None
    ) -> tuple[TrainingState, list[torch.Tensor]]:
        decoder = toy_decoder(decoder_seed)
        parameters = list(decoder.parameters())
        optimizer = build_optimizer(decoder.named_parameters(), config)
        state = TrainingState({"model": list(decoder.named_parameters())}, {"model": optimizer})
        if resumed_from is not None:
            state.read(resumed_from)
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            apply_gradients(optimizer, parameters, 1e-3 * (step + 1), 1.0, ALONE)
        return state, [parameter.detach().clone() for parameter in parameters]

    _, straight = trained(1, range(4), None)
    half, _ = trained(1, range(2), None)
    half.write(tmp_path, {"step": 2})
    _, resumed = trained(2, range(2, 4), tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(straight, resumed, strict=True))
    for name, weight in half.parameters["model"]:
        stored = half.optimizers["model"].state.get(weight, {}).values()
        is_hidden = weight.ndim == 2 and "embed" not in name
        hidden, elsewhere = config.numbers_per_weight
        assert sum(slot.shape == weight.shape for slot in stored) == (
            hidden if is_hidden else elsewhere
        ), name


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_gradient_raises_and_changes_nothing(poison: float) -> None:
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    one.grad, other.grad = torch.ones(2), torch.tensor([1.0, poison])
    optimizer = torch.optim.AdamW([one, other], lr=0.1)
    with refused(NonFiniteError, field="gradient", reason="NOT_FINITE") as caught:
        apply_gradients(optimizer, [one, other], 0.1, 1.0, ALONE, at="step 7, loss nan")
    assert "step 7, loss nan" in str(caught.value)
    assert one.tolist() == other.tolist() == [1.0, 1.0]
    assert not optimizer.state


@pytest.mark.parametrize(
    ("field", "value", "reason", "limit"),
    [
        ("schedule", "step", "UNKNOWN", "linear, cosine, constant, wsd"),
        ("warmup_fraction", 1.0, "OUT_OF_RANGE", "in [0, 1)"),
        ("warmup_steps", -1, "OUT_OF_RANGE", "at least 0"),
        ("cooldown_fraction", 0.0, "OUT_OF_RANGE", "in (0, 1]"),
        ("cooldown", "cosine", "UNKNOWN", "linear, sqrt"),
        ("algorithm", "lion", "UNKNOWN", "adamw, muon, adam, sgd"),
        ("momentum", 1.0, "OUT_OF_RANGE", "in [0, 1)"),
    ],
)
def test_invalid_settings_of_the_optimizer_are_rejected(
    field: str, value: object, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        OptimizerConfig(**{field: value})  # type: ignore[arg-type]


def test_large_gradient_is_clipped_and_its_norm_reported() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([30.0, 40.0])
    norm = apply_gradients(
        torch.optim.SGD([weight], lr=1.0), [weight], learning_rate=0.5, clip=1.0, ranks=ALONE
    )
    assert norm == pytest.approx(50.0)
    assert weight.detach().tolist() == pytest.approx([-0.3, -0.4])
    assert weight.grad is None


def test_parameter_without_a_gradient_is_unchanged() -> None:
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    one.grad = torch.ones(1)
    apply_gradients(
        torch.optim.SGD([one, other], lr=0.1),
        [one, other],
        learning_rate=0.1,
        clip=10.0,
        ranks=ALONE,
    )
    assert one.item() == pytest.approx(0.9)
    assert other.item() == 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on a free machine
def test_two_ranks_train_like_one(tmp_path: Path) -> None:
    """Train SFT (each optimizer), pre-training, PPO and GRPO with 1 and 2 gloo ranks.

    The losses are equal except for the order of float sums.
    """
    for world in (1, 2):
        run_workers(
            "tests.training.optim.two_ranks:train_stages", world, tmp_path, timeout_seconds=400
        )
    one, two = (torch.load(tmp_path / f"figures-{world}.pt", weights_only=True) for world in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
