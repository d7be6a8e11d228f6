"""Placement of a model for inference: number type of its matrices, and accelerators of its layers.

A model that is too large for one accelerator can have consecutive layers on each of several ones.
They compute one after the other, so this saves memory and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import ConfigError
from training.model.transformer import Decoder
from training.runtime.machine import CPU, to_device

Place = Callable[[Decoder], object]
"""Prepare a loaded decoder for inference, in place: number type, devices, shards."""


@dataclass(frozen=True)
class Placement:
    """Placement of decoders for inference.

    Attributes:
        narrow: store the matrices of layers in bfloat16.
        devices: accelerators of this process that share the layers; CPUs are always one.
    """

    narrow: bool = False
    devices: int = 1

    def place(self, decoder: Decoder) -> Decoder:
        """Change the decoder in place and return it.

        Raises:
            ConfigError: this process sees fewer accelerators.
        """
        if self.narrow:
            decoder.requires_grad_(False).narrow_frozen()
        home = torch.get_default_device()
        if self.devices == 1 or home.type == CPU:
            return to_device(decoder)
        seen = torch.accelerator.device_count()
        if seen < self.devices:
            raise ConfigError(
                f"devices: the layers of a model are planned for {self.devices} accelerators, and "
                f"this process sees {seen}",
                field="devices",
                reason="MISSING",
                limit=str(self.devices),
            )
        return spread(decoder, [torch.device(home.type, index) for index in range(self.devices)])


def spread(decoder: Decoder, devices: Sequence[torch.device]) -> Decoder:
    """Move consecutive layers to each device, and everything else to the first one."""
    layers, home = decoder.model.layers, devices[0]
    for part in (*decoder.children(), *decoder.model.children()):
        if part is not layers and part is not decoder.model:
            part.to(home)
    each = -(-len(layers) // len(devices))
    for number, layer in enumerate(layers):
        device = devices[number // each]
        layer.to(device).register_forward_pre_hook(partial(_moved_to, device))
    decoder.model.norm.register_forward_pre_hook(partial(_moved_to, home))
    return decoder


def _moved_to(device: torch.device, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs of a layer on its device; its cache has the layer's keys there already."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return tuple(map(moved, value)) if isinstance(value, tuple) else value

    return tuple(map(moved, inputs))
