"""Bits per byte of unseen texts under a decoder, a figure that is independent of the tokenizer.

The figure is exact: every token of a text counts once, and the bytes are those of the texts. The
token that ends a document has no bytes and is excluded. If a document continues in another row, the
model has no earlier context there.

Shapes: B rows, T tokens, N chosen tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from training.data.packing import PackedBatch, PackedRows
from training.errors import ConfigError
from training.losses.log_probs import next_token_log_probs
from training.model.backbone import Backbone
from training.model.transformer import Decoder
from training.parallelism.pipeline import Microbatch, total_loss
from training.runtime.machine import Autocast
from training.runtime.ranks import Ranks


@dataclass(frozen=True)
class Surprise:
    """Total surprisal of texts in nats, with their tokens and bytes."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Return the perplexity per token, comparable with a single tokenizer only."""
        return math.exp(self.nats / self.tokens)


def measure(
    decoder: Decoder, rows: PackedRows, microbatch_rows: int, autocast: Autocast, ranks: Ranks
) -> Surprise:
    """Measure all rows of packed documents (packing `documents`), shared among the ranks.

    Raises:
        ConfigError: the rows are packed as a stream, where the first token of a document may be in
            no row.
    """
    if rows.packing != "documents":
        raise ConfigError(
            f"packing: {rows.packing!r}, bits per byte are exact for documents only",
            field="packing",
            reason="UNSUPPORTED",
            limit="documents",
        )
    mine = ranks.share(range(len(rows)))
    most = -(-len(rows) // ranks.data_size)
    parts, tokens = [], 0
    for start in range(0, most, microbatch_rows):
        part = mine[start : start + microbatch_rows]
        # A dummy row, because each forward of a sharded model needs every worker.
        batch = rows.batch(part or [0])
        text_BT = batch.text_BT if part else torch.zeros_like(batch.text_BT)
        parts.append(
            Microbatch(
                batch.ids_BT,
                batch.mask_BT,
                partial(surprise_of, decoder, batch=batch, chosen_BT=text_BT),
            )
        )
        tokens += int(text_BT.sum())
    nats = total_loss(Backbone(decoder), parts, autocast, ranks)
    nats_and_tokens = ranks.sum(
        torch.stack((nats, torch.tensor(tokens, dtype=torch.float64)))
    ).tolist()
    return Surprise(nats_and_tokens[0], int(nats_and_tokens[1]), rows.stream.bytes)


def surprise_of(
    decoder: Decoder, hidden_BTD: Tensor, batch: PackedBatch, chosen_BT: Tensor, over: int = 1
) -> Tensor:
    """Return the nats of the chosen tokens given the tokens before, divided by `over`."""
    return -next_token_log_probs(decoder, hidden_BTD, batch.ids_BT, chosen_BT).double().sum() / over
