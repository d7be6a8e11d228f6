"""What autograd keeps of a real forward on this processor."""

import torch

from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.config import ModelConfig
from training.model.lora import LoraConfig, add_adapter
from training.model.transformer import Decoder, initialise


def kept(model: ModelConfig, rows: int, tokens: int, narrow: bool, adapted: bool, recomputed: bool) -> int:
    """Bytes of all storages that are kept and are no parameters."""
    decoder = Decoder(model)
    initialise(decoder, 1)
    backbone = Backbone(decoder)
    if adapted:
        decoder.requires_grad_(False)
        add_adapter(decoder, "policy", LoraConfig(rank=1), seed=1)
        backbone = Backbone(decoder, "policy")
    if recomputed:
        checkpoint_activations(decoder)
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
        backbone.hidden(torch.ones(rows, tokens, dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
