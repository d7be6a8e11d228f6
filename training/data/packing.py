"""Fixed-length rows from a stream of documents, as pre-training reads them.

Two packings exist:
- `documents`: attention is limited to the token's own document, and positions restart at 0 per
  document. Neighbouring rows share one token, so every token except the first of a document is
  predicted exactly once. A document that continues in the next row loses its earlier context. The
  last row is padded.
- `stream`: rows lie end to end, and texts see the preceding texts. Tokens left over at the end are
  dropped.

Shapes: B rows, T tokens per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.corpus import PACKINGS
from training.data.tensors import FILL_ID
from training.data.token_shards import ShardError, TokenStream

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PackedBatch:
    """Packed rows with their masks.

    mask_BT holds document numbers, 0 for padding (`Decoder.forward`). learned_BT is True for tokens
    predicted from the previous one. text_BT is the subset of learned_BT with text bytes, without
    the end tokens of documents. learned_BT and text_BT stay on the CPU, like
    `ResponseBatch.response_mask_BT`.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    learned_BT: Tensor
    text_BT: Tensor


@dataclass(frozen=True)
class PackedRows:
    """All rows of a split, built on access."""

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
        """Number of tokens outside all rows."""
        return self.stream.tokens - len(self) * self.row_tokens if self.packing == "stream" else 0

    def batch(self, rows: Sequence[int]) -> PackedBatch:
        """Return the given rows as one batch."""
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
        # One token more shows if the last one ends its document.
        documents = self.stream.documents_at(start, stop + 1)
        # The last token of a document is followed by another document.
        ends = np.pad(documents[:-1] != documents[1:], fill)
        number = np.pad(documents[:-1], fill)
        # Document number of the previous token; 0 before the first column.
        before = np.concatenate(([0], number[:-1]))
        if self.packing == "stream":
            # In a stream all tokens attend to each other, so one document number suffices.
            return ids, np.ones_like(number), before > 0, (before > 0) & ~ends
        learned = (before == number) & (number > 0)
        return ids, number, learned, learned & ~ends
