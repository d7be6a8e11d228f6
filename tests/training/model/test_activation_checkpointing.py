"""Activation checkpointing: the same numbers from less memory."""

from typing import Any

import pytest
import torch

from tests.training.rl.toy import toy_decoder
from training.model.activation_checkpointing import checkpoint_activations
from training.model.cache import KeyValueCache
from training.model.transformer import Block, Decoder


def gradients(decoder: Decoder, narrow: bool) -> tuple[float, list[torch.Tensor]]:
    ids_BT = torch.randint(0, 24, (3, 16), generator=torch.Generator().manual_seed(1))
    documents_BT = torch.arange(16).expand(3, 16) // 6 + 1
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        loss = decoder.logits(decoder(ids_BT, documents_BT)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in decoder.parameters()]
    return float(loss.detach()), [gradient for gradient in found if gradient is not None]


class Saved:
    """Counts the numbers that autograd keeps."""

    def __init__(self) -> None:
        self.numbers = 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self.numbers += tensor.numel()
        return tensor


@pytest.mark.parametrize("narrow", [False, True])
def test_loss_and_gradients_are_the_same_bits_and_less_is_kept(narrow: bool) -> None:
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


def test_a_block_runs_twice_in_training_and_once_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_names_of_parameters_stay() -> None:
    decoder = toy_decoder()
    names = list(decoder.state_dict())
    checkpoint_activations(decoder)
    assert list(decoder.state_dict()) == names
