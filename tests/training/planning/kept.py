"""Activation memory that autograd really stores on this CPU."""

from collections.abc import Callable

import torch

from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.config import ModelConfig
from training.model.lora import LoraConfig, add_adapter
from training.model.transformer import Decoder, initialise
from training.rl.rollout import Rollout, response_log_probs


def kept(
    model: ModelConfig, rows: int, tokens: int, narrow: bool, adapted: bool, recomputed: bool
) -> int:
    """Return the bytes of all storages that a forward pass stores, except for parameters."""
    decoder = Decoder(model)
    initialise(decoder, 1)
    backbone = Backbone(decoder)
    if adapted:
        decoder.requires_grad_(False)
        add_adapter(decoder, "policy", LoraConfig(rank=1), seed=1)
        backbone = Backbone(decoder, "policy")
    if recomputed:
        checkpoint_activations(decoder)
    return _kept(
        lambda: backbone.hidden(torch.ones(rows, tokens, dtype=torch.long)), decoder, narrow
    )


def kept_of_responses(
    model: ModelConfig, prompts: int, copies: int, prompt_tokens: int, response_tokens: int
) -> int:
    """Return the stored bytes in bf16 of response log-probs with shared prompts."""
    decoder, rows = Decoder(model), prompts * copies
    initialise(decoder, 1)
    prompt_ids_BP = (
        torch.arange(prompts).repeat_interleave(copies)[:, None].repeat(1, prompt_tokens)
    )
    response_BR = torch.ones(rows, response_tokens, dtype=torch.long)
    rollout = Rollout(
        prompt_ids_BP=prompt_ids_BP,
        prompt_mask_BP=torch.ones_like(prompt_ids_BP),
        response_ids_BR=response_BR,
        response_mask_BR=response_BR,
        log_probs_BR=torch.zeros(rows, response_tokens),
        ended_B=torch.ones(rows, dtype=torch.bool),
        version="",
        copies=max(2, copies),  # as in a group with other members in other minibatches
    )
    return _kept(lambda: response_log_probs(Backbone(decoder), rollout, 1.0), decoder, narrow=True)


def _kept(forward: Callable[[], object], decoder: Decoder, narrow: bool) -> int:
    own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            seen[place] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow),
    ):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
