"""Rows of one length out of a stream of documents: what pre-training reads at a step.

Two ways. `documents`: a token sees its own document alone, whose positions begin at 0; rows share a
token with the next one, so that every token of a document but its first is predicted exactly once;
a document that ends in a later row goes on there without what came before; the last row is filled
up. `stream`: rows lie end to end, and a text sees the ones before it; what is left over at the end
is no row.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.tensors import FILL_ID
from training.data.token_shards import ShardError, TokenStream

Array = npt.NDArray[Any]
PACKINGS = ("documents", "stream")


@dataclass(frozen=True)
class PackedBatch:
    """mask_BT: numbers of documents, 0 where filled up (Decoder.forward). learned_BT: True where
    the token is predicted by the one before it. text_BT: those of them that stand for bytes of a
    text, so all but the ends of documents. These two stay on the processor, as
    ResponseBatch.response_mask_BT does.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    learned_BT: Tensor
    text_BT: Tensor


@dataclass(frozen=True)
class PackedRows:
    """All rows of a split, made when they are asked for."""

    stream: TokenStream
    row_tokens: int
    packing: str

    def __post_init__(self) -> None:
        if self.packing not in PACKINGS:
            raise ShardError(
                f"packing: {self.packing!r} is not one of {', '.join(PACKINGS)}",
                field="packing",
                reason="UNKNOWN",
                limit=", ".join(PACKINGS),
            )
        if self.row_tokens < 2:
            raise ShardError(
                f"context_tokens: {self.row_tokens} is not at least 2",
                field="context_tokens",
                reason="OUT_OF_RANGE",
                limit="at least 2",
            )

    def __len__(self) -> int:
        if self.packing == "stream":
            return self.stream.tokens // self.row_tokens
        return -(-max(0, self.stream.tokens - 1) // self._stride)

    @property
    def left_over_tokens(self) -> int:
        """Tokens in no row."""
        return self.stream.tokens - len(self) * self.row_tokens if self.packing == "stream" else 0

    def batch(self, rows: Sequence[int]) -> PackedBatch:
        """These rows."""
        parts = [self._row(row) for row in rows]
        ids_BT, mask_BT, learned_BT, text_BT = (
            torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True)
        )
        device = torch.get_default_device()
        return PackedBatch(ids_BT.to(device), mask_BT.to(device), learned_BT, text_BT)

    @property
    def _stride(self) -> int:
        return self.row_tokens if self.packing == "stream" else self.row_tokens - 1

    def _row(self, row: int) -> tuple[Array, Array, Array, Array]:
        start = row * self._stride
        stop = min(start + self.row_tokens, self.stream.tokens)
        fill = (0, self.row_tokens - (stop - start))
        ids = np.pad(self.stream.read(start, stop), fill, constant_values=FILL_ID)
        documents = self.stream.documents_at(
            start, stop + 1
        )  # one more tells whether the last token ends its document
        ends = np.pad(documents[:-1] != documents[1:], fill)
        number = np.pad(documents[:-1], fill)
        before = np.concatenate(([0], number[:-1]))
        if self.packing == "stream":
            return ids, np.ones_like(number), before > 0, (before > 0) & ~ends
        learned = (before == number) & (number > 0)
        return ids, number, learned, learned & ~ends
