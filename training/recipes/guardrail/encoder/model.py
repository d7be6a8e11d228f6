"""Encoder with adapters: a BERT of a package, low-rank matrices beside its weights, and heads.

Shapes: B texts, T tokens, D = 384 values a token, P = 4 pools, H heads.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

WIDTH, ATTENTION_HEADS, EPSILON = 384, 12, 1e-12
HIDDEN = -1e4  # added to scores of padding
# Linear layers of a block with their inputs and outputs, by their names in the base.
LINEAR = {
    "attention.self.query": (WIDTH, WIDTH),
    "attention.self.key": (WIDTH, WIDTH),
    "attention.self.value": (WIDTH, WIDTH),
    "attention.output.dense": (WIDTH, WIDTH),
    "intermediate.dense": (WIDTH, 4 * WIDTH),
    "output.dense": (4 * WIDTH, WIDTH),
}
# Layers whose inputs have a range in eight bits, in the order of the ranges; query, key and value
# have one input.
RANGED = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
# As in the service, whose weights use half of 254 steps.
WEIGHT_STEPS, INPUT_STEPS = 127, 255
POOLS = 4
ADAPTER_DROPOUT, POOLED_DROPOUT = 0.05, 0.1


class Encoder(nn.Module):
    """Base weights, which stay fixed, with trained adapters, pools and heads."""

    def __init__(self, base: Path, heads: int, rank: int) -> None:
        """Read the base.

        Args:
            base: folder with the base's model.safetensors.
            heads: number of outputs.
            rank: inner dimension of the adapters.
        """
        super().__init__()
        self.base = {
            name: value.float() for name, value in load_file(base / "model.safetensors").items()
        }
        self.layers = 1 + max(int(name.split(".")[2]) for name in self.base if "layer." in name)
        self.adapters = nn.ParameterDict()
        for layer in range(self.layers):
            for name, (inputs, outputs) in LINEAR.items():
                key = adapter_key(layer, name)
                self.adapters[f"{key}_a"] = nn.Parameter(
                    torch.randn(rank, inputs) / math.sqrt(inputs)
                )
                self.adapters[f"{key}_b"] = nn.Parameter(torch.zeros(outputs, rank))
        # Ranges [layers, 4, 2] of the inputs once the weights are rounded, else measured or None.
        self.ranges: Tensor | None = None
        self._is_measuring = False
        self.pools = nn.Linear(WIDTH, POOLS)
        self.heads = nn.Linear((POOLS + 1) * WIDTH, heads)

    def forward(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the logits [B, H]; the mask is 1 for tokens, 0 for padding."""
        batch, length = tokens_BT.shape
        embeddings = "embeddings."
        x = self.base[f"{embeddings}word_embeddings.weight"][tokens_BT]
        x = x + self.base[f"{embeddings}position_embeddings.weight"][:length]
        x = x + self.base[f"{embeddings}token_type_embeddings.weight"][0]
        x = self._norm(x, f"{embeddings}LayerNorm")
        bias = (1 - mask_BT.float())[:, None, None, :] * HIDDEN
        for layer in range(self.layers):

            def split(values: Tensor) -> Tensor:
                return values.view(batch, length, ATTENTION_HEADS, -1).transpose(1, 2)

            query, key, value = (
                split(self._linear(x, layer, f"attention.self.{name}"))
                for name in ("query", "key", "value")
            )
            # On a processor four times as fast as the backward pass of the fused function.
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + bias
            mixed = scores.softmax(dim=-1) @ value
            mixed = mixed.transpose(1, 2).reshape(batch, length, WIDTH)
            place = f"encoder.layer.{layer}"
            x = self._norm(
                x + self._linear(mixed, layer, "attention.output.dense"),
                f"{place}.attention.output.LayerNorm",
            )
            inner = functional.gelu(self._linear(x, layer, "intermediate.dense"))
            x = self._norm(
                x + self._linear(inner, layer, "output.dense"), f"{place}.output.LayerNorm"
            )
        weights = (self.pools(x) + bias[:, 0, 0, :, None]).softmax(dim=1)
        pooled = torch.einsum("btp,btd->bpd", weights, x).flatten(1)
        mask = mask_BT[..., None].float()
        mean = (x * mask).sum(dim=1) / mask.sum(dim=1)
        features = functional.dropout(
            torch.cat([pooled, mean], dim=1), POOLED_DROPOUT, self.training
        )
        logits: Tensor = self.heads(features)
        return logits

    def _linear(self, x: Tensor, layer: int, name: str) -> Tensor:
        place, key = f"encoder.layer.{layer}.{name}", adapter_key(layer, name)
        if self.ranges is not None:
            x = self._ranged(x, layer, RANGED.index(name if name in RANGED else RANGED[0]))
        y = functional.linear(x, self.base[f"{place}.weight"], self.base[f"{place}.bias"])
        if f"{key}_a" not in self.adapters:
            return y
        inner = functional.linear(x, self.adapters[f"{key}_a"])
        inner = functional.dropout(inner, ADAPTER_DROPOUT, self.training)
        return y + functional.linear(inner, self.adapters[f"{key}_b"])

    def _ranged(self, x: Tensor, layer: int, number: int) -> Tensor:
        """Measure the range of an input, or round the input to it."""
        assert self.ranges is not None
        low, high = self.ranges[layer, number]
        if self._is_measuring:
            self.ranges[layer, number, 0] = torch.minimum(low, x.min())
            self.ranges[layer, number, 1] = torch.maximum(high, x.max())
            return x
        step = (high - low) / INPUT_STEPS
        rounded: Tensor = torch.round((x.clamp(low, high) - low) / step) * step + low
        return rounded

    @torch.no_grad()
    def round(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Compute with eight bits from now on, as the service does.

        The adapters are merged into the weights, whose rows have a range each.

        Args:
            batches: tokens and masks of texts, which give the ranges of the inputs.
        """
        self.ranges = torch.zeros(self.layers, len(RANGED), 2)
        self._is_measuring = True
        for tokens, mask in batches:
            self(tokens, mask)
        self._is_measuring = False
        for layer in range(self.layers):
            for name in LINEAR:
                place, key = f"encoder.layer.{layer}.{name}.weight", adapter_key(layer, name)
                # Half precision, as in the file.
                outer, inner = (self.adapters.pop(f"{key}_{end}").half().float() for end in "ba")
                merged = self.base[place] + outer @ inner
                step = 2 * merged.abs().amax(dim=1, keepdim=True) / WEIGHT_STEPS
                self.base[place] = torch.round(merged / step) * step

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.base[f"{name}.weight"], self.base[f"{name}.bias"]
        return functional.layer_norm(x, (WIDTH,), weight, bias, EPSILON)

    def trained(self) -> dict[str, Tensor]:
        """Return the trained values in half precision."""
        return {
            name.removeprefix("adapters."): value.detach().half().contiguous()
            for name, value in self.state_dict().items()
        }


def adapter_key(layer: int, name: str) -> str:
    """Return the name of an adapter, without points, which a ParameterDict refuses."""
    return f"layer_{layer}_{name.replace('.', '_')}"
