"""How well a decoder predicts texts that it has never seen, in bits per byte: a figure that does
not depend on the tokenizer.

Exact: every token of a text counts once, and the bytes are those of the texts themselves. The token
    that ends a document stands for
no byte and is left out. Where a document goes on in another row, it goes on there without what came
before.

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
from training.model.backbone import Backbone
from training.model.transformer import Decoder
from training.optim.ranks import Ranks
from training.pipeline import Microbatch, total_loss
from training.rl.log_probs import next_token_log_probs
from training.stages.machine import Autocast


@dataclass(frozen=True)
class Surprise:
    """What the texts cost: nats of all their tokens together."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Of a token; only comparable under one tokenizer."""
        return math.exp(self.nats / self.tokens)


def measure(
    decoder: Decoder, rows: PackedRows, microbatch_rows: int, autocast: Autocast, ranks: Ranks
) -> Surprise:
    """All rows of packed documents (packing `documents`), shared among the ranks.

    Raises:
        ConfigError: the rows are a stream's, in which a document's first token may be in no row.
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
        batch = rows.batch(
            part or [0]
        )  # of nothing: where the model is shared out, each forward needs every worker
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
    """Nats of the chosen tokens, each under the one before it, over a count."""
    return -next_token_log_probs(decoder, hidden_BTD, batch.ids_BT, chosen_BT).double().sum() / over
