"""Activation checkpointing gives identical numbers with less memory."""

from typing import Any

import pytest
import torch

from tests.training.rl.toy import toy_decoder
from training.model import activation_checkpointing
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone, trainable_backbone
from training.model.lora import LoraConfig, adapter_parameters
from training.model.transformer import Block, Decoder, KeyValueCache


def gradients(decoder: Decoder, narrow: bool) -> tuple[float, list[torch.Tensor]]:
    ids_BT = torch.randint(0, 24, (3, 16), generator=torch.Generator().manual_seed(1))
    documents_BT = torch.arange(16).expand(3, 16) // 6 + 1
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        loss = decoder.logits(decoder(ids_BT, documents_BT)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in decoder.parameters()]
    return float(loss.detach()), [gradient for gradient in found if gradient is not None]


class Saved:
    """Counter of the numbers saved by autograd."""

    def __init__(self) -> None:
        self.numbers = 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self.numbers += tensor.numel()
        return tensor


@pytest.mark.parametrize("narrow", [False, True])
def test_loss_and_gradients_are_bit_identical_and_less_is_saved(narrow: bool) -> None:
    plain, checkpointed = toy_decoder(), toy_decoder()
    checkpoint_activations(checkpointed)
    kept, kept_less = Saved(), Saved()
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        loss, wanted = gradients(plain, narrow)
    with torch.autograd.graph.saved_tensors_hooks(kept_less.keep, lambda tensor: tensor):
        loss_again, found = gradients(checkpointed, narrow)
    assert loss == loss_again
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
    assert len(found) == len(list(plain.parameters()))
    assert kept_less.numbers < kept.numbers / 2


def adapted() -> tuple[Decoder, list[Backbone]]:
    """Return a decoder and two views with effective adapters."""
    decoder = toy_decoder()
    views = [
        trainable_backbone(decoder, name, LoraConfig(rank=2), seed)
        for seed, name in enumerate(("one", "two"))
    ]
    with torch.no_grad():
        for view in views:
            for parameter in adapter_parameters(decoder, view.adapter or ""):
                parameter.add_(0.05)
    return decoder, views


def adapters_gradients(decoder: Decoder, views: list[Backbone]) -> list[torch.Tensor]:
    """Return gradients of losses that all exist before the first backward, as in PPO."""
    ids_BT = torch.randint(0, 24, (3, 16), generator=torch.Generator().manual_seed(1))
    losses = [decoder.logits(view.hidden(ids_BT)).square().mean() for view in views]
    torch.autograd.backward(losses)
    found = [
        parameter.grad
        for view in views
        for parameter in adapter_parameters(decoder, view.adapter or "")
    ]
    return [gradient for gradient in found if gradient is not None]


def test_adapter_is_reactivated_for_the_recomputation_in_backward() -> None:
    plain, checkpointed = adapted(), adapted()
    checkpoint_activations(checkpointed[0], checkpointed[0])
    wanted, found = adapters_gradients(*plain), adapters_gradients(*checkpointed)
    # Views, layers, matrices of a pair, projections.
    assert len(wanted) == len(found) == 2 * 2 * 2 * 7
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
    assert all(
        linear.active is None for linear in checkpointed[0].modules() if hasattr(linear, "active")
    )


def test_decoder_listed_twice_recomputes_each_block_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    checkpoint = activation_checkpointing.checkpoint

    def counted(*inputs: Any, **settings: Any) -> Any:
        calls.append(1)
        return checkpoint(*inputs, **settings)

    monkeypatch.setattr(activation_checkpointing, "checkpoint", counted)
    decoder = toy_decoder()
    checkpoint_activations(decoder, decoder)
    decoder(torch.ones(1, 4, dtype=torch.long))
    assert len(calls) == 2  # layers


def test_block_runs_twice_in_training_and_once_without_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    forward = Block.forward

    def counted(*inputs: Any) -> torch.Tensor:
        calls.append(1)
        return forward(*inputs)

    monkeypatch.setattr(Block, "forward", counted)
    decoder = toy_decoder()
    checkpoint_activations(decoder)
    gradients(decoder, narrow=False)
    assert len(calls) == 2 * 2
    calls.clear()
    with torch.no_grad():
        cache = KeyValueCache(4)
        decoder(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4), cache)
    assert len(calls) == 2
    assert cache.length == 4


def test_parameter_names_stay_unchanged() -> None:
    decoder = toy_decoder()
    names = list(decoder.state_dict())
    checkpoint_activations(decoder)
    assert list(decoder.state_dict()) == names
