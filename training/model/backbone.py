"""Views of a decoder through one adapter or none: policy, reference, reward model and critic.

With LoRA all four views share one decoder, so its weights are in memory once. Without LoRA each has
its own decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from training.model.config import LoraConfig
from training.model.lora import active_adapter, adapter_parameters, add_adapter
from training.model.transformer import Decoder, KeyValueCache


@dataclass(frozen=True)
class Backbone:
    """View of a decoder. Without an adapter (None), the view uses the decoder's own weights."""

    decoder: Decoder
    adapter: str | None = None

    def hidden(
        self, ids_BT: Tensor, mask_BS: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Return hidden states after the last norm, [B, T, D]; see `Decoder.forward`."""
        with active_adapter(self.decoder, self.adapter):
            hidden_BTD: Tensor = self.decoder(ids_BT, mask_BS, cache)
        return hidden_BTD

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the trainable parameters of this view: the adapter or the whole decoder."""
        if self.adapter is None:
            return list(self.decoder.named_parameters())
        wanted = {id(parameter) for parameter in adapter_parameters(self.decoder, self.adapter)}
        return [(name, p) for name, p in self.decoder.named_parameters() if id(p) in wanted]


def trainable_backbone(
    decoder: Decoder, adapter: str, lora: LoraConfig | None, seed: int
) -> Backbone:
    """Return a trainable view: a new adapter, or the whole decoder if `lora` is None."""
    if lora is None:
        decoder.requires_grad_(True)
        return Backbone(decoder)
    add_adapter(decoder, adapter, lora, seed)
    return Backbone(decoder, adapter)
