"""Decoder for GPT-2, Llama, Qwen 2/3 and Gemma 3 under Llama's parameter names, and its cache.

Names and layout of GPT-2's files are handled in checkpoint.py. Masks hold document numbers, so
packed rows need no further input. Columns may be padded on either side. Positions count real tokens
only, and a padded query attends to itself, so that no softmax row is empty.

Shapes: B batch, T new tokens, S all tokens so far (cache + new), D hidden, H heads, K key-value
heads, E head dimension, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import DetailedError
from training.model.config import ModelConfig
from training.model.rope import inverse_frequencies, rotate, rotation
from training.model.rope_config import Rope

# Cosine and sine of a layer's rotation, [B, 1, T, E] each; None with learned positions.
Rotation = tuple[Tensor, Tensor] | None
T = TypeVar("T")


class PositionError(DetailedError, ValueError):
    """Error for a document longer than the learned positions; the message has both lengths."""

    reason = "TOO_LARGE"


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + w), computed in fp32. The offset is 1 for Gemma, otherwise 0."""

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.eps, self.offset = config.norm_eps, config.norm_offset
        self.weight = nn.Parameter(torch.full((size,), 1.0 - config.norm_offset))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * (self.offset + self.weight.float())).type_as(x)


def new_norm(size: int, config: ModelConfig) -> nn.Module:
    """Return a new norm of the family's kind."""
    return nn.LayerNorm(size, config.norm_eps) if config.layer_norm else RMSNorm(size, config)


class KeyValueCache:
    """Key and value buffers of fixed capacity per layer; decoding appends in place without copying.

    Buffer shapes follow the first append, so a worker with a part of the heads caches only that
    part. `length` grows once per forward, after all layers have appended.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # tokens per row
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def append(self, layer: int, keys_BKTE: Tensor, values_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all of this layer, [B, K, S, E] each.

        Raises:
            ValueError: the capacity is exceeded.
        """
        end = self.length + keys_BKTE.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache: {end} tokens do not fit its capacity of {self.capacity}")
        if layer == len(self._keys):
            self._keys.append(self._room(keys_BKTE))
            self._values.append(self._room(values_BKTE))
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self.length : end] = keys_BKTE
        values[:, :, self.length : end] = values_BKTE
        return keys[:, :, :end], values[:, :, :end]

    def take(self, rows_B: Tensor) -> KeyValueCache:
        """Return a new cache with copies of these rows, in this order; rows may be repeated."""
        taken = KeyValueCache(self.capacity)
        taken.length = self.length
        taken._keys = [self._rows_of(buffer, rows_B) for buffer in self._keys]
        taken._values = [self._rows_of(buffer, rows_B) for buffer in self._values]
        return taken

    def prefix(self, length: int, capacity: int) -> KeyValueCache:
        """Return a new cache of this capacity with copies of the first `length` tokens."""
        taken = KeyValueCache(capacity)
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            taken.append(layer, keys[:, :, :length], values[:, :, :length])
        taken.length = length
        return taken

    def _room(self, first_BKTE: Tensor) -> Tensor:
        batch, heads, _, size = first_BKTE.shape
        return first_BKTE.new_zeros(batch, heads, self.capacity, size)

    def _rows_of(self, buffer: Tensor, rows_B: Tensor) -> Tensor:
        # Copy filled columns only; the rest of the capacity stays zero.
        taken = torch.zeros_like(buffer[:1]).repeat(len(rows_B), 1, 1, 1)
        taken[:, :, : self.length] = buffer[:, :, : self.length].index_select(
            0, rows_B.to(buffer.device)
        )
        return taken


class Attention(nn.Module):
    """Grouped-query attention with optional query and key norms."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        d, e, bias = config.hidden_size, config.head_dim, config.qkv_bias
        self.layer, self.head_dim, self.scale = layer, e, config.attention_scale
        self.q_proj = nn.Linear(d, config.num_heads * e, bias=bias)
        self.k_proj = nn.Linear(d, config.num_kv_heads * e, bias=bias)
        self.v_proj = nn.Linear(d, config.num_kv_heads * e, bias=bias)
        self.o_proj = nn.Linear(config.num_heads * e, d, bias=config.output_bias)
        self.q_norm: nn.Module = RMSNorm(e, config) if config.qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(e, config) if config.qk_norm else nn.Identity()

    def forward(
        self, x_BTD: Tensor, rotary: Rotation, mask_B1TS: Tensor, cache: KeyValueCache | None
    ) -> Tensor:
        batch, tokens, _ = x_BTD.shape
        q_BHTE = self.q_proj(x_BTD).view(batch, tokens, -1, self.head_dim)
        k_BKTE = self.k_proj(x_BTD).view(batch, tokens, -1, self.head_dim)
        v_BKTE = self.v_proj(x_BTD).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        q_BHTE = self.q_norm(q_BHTE).transpose(1, 2)
        k_BKTE = self.k_norm(k_BKTE).transpose(1, 2)
        if rotary is not None:
            q_BHTE, k_BKTE = rotate(q_BHTE, *rotary), rotate(k_BKTE, *rotary)
        if cache is not None:
            k_BKTE, v_BKTE = cache.append(self.layer, k_BKTE, v_BKTE)
        # enable_gqa shares each of the K key-value heads among H / K query heads.
        y_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BKTE, v_BKTE, attn_mask=mask_B1TS, scale=self.scale, enable_gqa=True
        )
        out: Tensor = self.o_proj(y_BHTE.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class MLP(nn.Module):
    """Feed-forward: down(act(gate(x)) * up(x)), or down(act(up(x))) for families without a gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, wide, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gated, self.gelu = config.gated_mlp, config.gelu
        if self.gated:
            self.gate_proj = nn.Linear(d, wide, bias=bias)
        self.up_proj = nn.Linear(d, wide, bias=bias)
        self.down_proj = nn.Linear(wide, d, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        wide = self.gate_proj(x_BTD) if self.gated else self.up_proj(x_BTD)
        wide = F.gelu(wide, approximate="tanh") if self.gelu else F.silu(wide)
        if self.gated:
            wide = wide * self.up_proj(x_BTD)
        out: Tensor = self.down_proj(wide)
        return out


class Block(nn.Module):
    """One layer. With sandwich norms (Gemma 3) each branch also has a norm on its output."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config, layer), MLP(config)
        self.sandwich = config.sandwich_norms
        self.input_layernorm = new_norm(config.hidden_size, config)
        self.post_attention_layernorm = new_norm(config.hidden_size, config)
        if self.sandwich:
            self.pre_feedforward_layernorm = new_norm(config.hidden_size, config)
            self.post_feedforward_layernorm = new_norm(config.hidden_size, config)

    def forward(
        self, x_BTD: Tensor, rotary: Rotation, mask_B1TS: Tensor, cache: KeyValueCache | None
    ) -> Tensor:
        attended: Tensor = self.self_attn(self.input_layernorm(x_BTD), rotary, mask_B1TS, cache)
        if self.sandwich:
            x_BTD = x_BTD + self.post_attention_layernorm(attended)
            fed: Tensor = self.post_feedforward_layernorm(
                self.mlp(self.pre_feedforward_layernorm(x_BTD))
            )
        else:
            x_BTD = x_BTD + attended
            fed = self.mlp(self.post_attention_layernorm(x_BTD))
        return x_BTD + fed


def new_embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding of zeros, to be filled by `initialise` or from a file.

    The default normal_ would import torch's compiler on the meta device, which takes seconds.
    """
    return nn.Embedding(rows, width, _weight=torch.zeros(rows, width))


class Stack(nn.Module):
    """Embedding, layers and last norm; Hugging Face's `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = new_embedding(config.vocab_size, config.hidden_size)
        if config.learned_positions:
            self.embed_positions = new_embedding(config.max_positions, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = new_norm(config.hidden_size, config)
        self._frequencies = {
            rope: inverse_frequencies(rope, config.head_dim) for rope in set(config.ropes) if rope
        }

    def forward(self, ids_BT: Tensor, mask_BS: Tensor, cache: KeyValueCache | None) -> Tensor:
        tokens = ids_BT.shape[1]
        positions_BT = positions_of(mask_BS)[:, -tokens:]
        rotations: dict[Rope | None, Rotation] = {None: None}
        self._frequencies = {
            rope: f.to(ids_BT.device) for rope, f in self._frequencies.items()
        }  # copied to the device once
        rotations |= {
            rope: rotation(positions_BT, frequencies)
            for rope, frequencies in self._frequencies.items()
        }
        # Layers with the same window share one mask.
        masks = {
            window: attention_mask(mask_BS, tokens, window) for window in set(self.config.windows)
        }
        # Floating-point input holds the hidden states of an earlier pipeline stage.
        x_BTD = (
            ids_BT if ids_BT.is_floating_point() else self.embedded(ids_BT, mask_BS, positions_BT)
        )
        for layer, rope, window in zip(
            self.layers, self.config.ropes, self.config.windows, strict=True
        ):
            x_BTD = layer(x_BTD, rotations[rope], masks[window], cache)
        if cache is not None:
            cache.length += tokens
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    def embedded(self, ids_BT: Tensor, mask_BS: Tensor, positions_BT: Tensor) -> Tensor:
        """Return the input of the first layer, [B, T, D]."""
        x_BTD: Tensor = self.embed_tokens(ids_BT) * self.config.embedding_scale
        if self.config.learned_positions:
            check_positions(mask_BS, positions_BT, self.config.max_positions)
            x_BTD = x_BTD + self.embed_positions(positions_BT)
        return x_BTD


class Decoder(nn.Module):
    """A causal language model.

    `forward` returns hidden states. `logits` is separate, so callers pay for the head only at the
    positions they need. `recomputes` marks activation checkpointing; caches cannot take part in
    gradients then. `stored_narrow` marks matrices in bfloat16.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config)
        self.lm_head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.recomputes = self.stored_narrow = False

    def forward(
        self, ids_BT: Tensor, mask_BS: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Return hidden states after the last norm, hidden_BTD.

        Args:
            ids_BT: token ids, any valid id at padding; or hidden states [B, T, D] of layers on
                another worker.
            mask_BS: 0 for padding, else the number of the token's document, rising along a row.
                Tokens attend to their own document only, and positions restart at 0 per document. A
                mask of ones is one document. Covers cached and new tokens; None: all ones (no
                cache).
            cache: earlier keys and values, extended by this call.
        """
        if mask_BS is None:
            mask_BS = torch.ones_like(ids_BT)
        device = ids_BT.device.type
        narrow = torch.autocast(device, torch.bfloat16) if self.stored_narrow else nullcontext()
        with narrow:
            hidden_BTD: Tensor = self.model(ids_BT, mask_BS, cache)
        return hidden_BTD

    def narrow_frozen(self) -> None:
        """Store the frozen matrices of layers in bfloat16, and compute layers in it from now on.

        Under autocast, forward passes have the same bits as before, because autocast would convert
        the same matrices. Embedding and head stay in fp32, like norms.
        """
        for parameter in self.model.layers.parameters():
            if parameter.ndim == 2 and not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
                self.stored_narrow = True

    def logits(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [..., V] in fp32, even under autocast.

        A log-prob from a bf16 logit of 20 is off by up to 0.06.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self._head.float())

    def apply_head(self, function: Callable[..., T], *inputs: object) -> T:
        """Return function(weight of the head [V, D], *inputs).

        Shards of the weight are gathered for the call, as for `forward` and `logits`.
        """
        return function(self._head, *inputs)

    @property
    def _head(self) -> Tensor:
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight


def initialise(decoder: Decoder, seed: int, scaled_residuals: bool = False) -> None:
    """Initialise a decoder on the CPU, as a function of the seed alone.

    Weights are normal(0, initializer_range), biases zero, norms one.

    Args:
        scaled_residuals: scale projections onto the residual stream by 1 / sqrt(2 layers), so that
            deep stacks start with the variance of shallow ones (GPT-2, Radford et al. 2019, section
            2.3).
    """
    generator = torch.Generator().manual_seed(seed)
    spread = decoder.config.initializer_range
    onto_residuals = (
        spread / math.sqrt(2 * decoder.config.num_layers) if scaled_residuals else spread
    )
    with torch.no_grad():
        for name, module in decoder.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                ends = name.endswith(("o_proj", "down_proj"))
                module.weight.normal_(0.0, onto_residuals if ends else spread, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()


def check_positions(mask_BS: Tensor, positions_BT: Tensor, limit: int) -> None:
    """Check that no document is longer than the learned positions.

    The position values are read only for rows long enough to exceed the limit, because reading
    waits for the accelerator.

    Raises:
        PositionError: a document has more than `limit` tokens.
    """
    if mask_BS.shape[1] > limit and (longest := int(positions_BT.max()) + 1) > limit:
        raise PositionError(
            f"max_positions: a document has {longest} tokens, but the model has {limit} positions",
            field="max_positions",
            limit=str(limit),
        )


def positions_of(mask_BS: Tensor) -> Tensor:
    """Return the position of each column: the number of preceding real tokens of its document."""
    mask_BS = mask_BS.long()
    # Index among the real tokens of the row, over all documents.
    count_BS = ((mask_BS != 0).cumsum(dim=1) - 1).clamp(min=0)
    begun_BS = mask_BS.cummax(dim=1).values  # number of the latest document so far
    first_BS = begun_BS > F.pad(begun_BS, (1, 0))[:, :-1]
    # Subtract the index of the first token of the document.
    return count_BS - torch.where(first_BS, count_BS, 0).cummax(dim=1).values


def attention_mask(mask_BS: Tensor, tokens: int, window: int | None) -> Tensor:
    """Return True where query t may attend to key s, [B, 1, T, S].

    Queries are the last `tokens` columns. Attention is causal, within the document and the window.
    """
    columns = mask_BS.shape[1]
    key_S = torch.arange(columns, device=mask_BS.device)
    query_T1 = key_S[columns - tokens :, None]
    allowed_TS = key_S <= query_T1
    if window is not None:
        allowed_TS = allowed_TS & (key_S > query_T1 - window)
    same_BTS = mask_BS[:, columns - tokens :, None] == mask_BS[:, None, :]
    seen_BTS = allowed_TS & same_BTS & (mask_BS != 0)[:, None, :]
    # Every query sees itself, so padded rows have a non-empty softmax.
    return (seen_BTS | (key_S == query_T1))[:, None]
