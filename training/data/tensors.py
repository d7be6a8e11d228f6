"""Lists of token ids to padded tensors. Masks say what is real; the fill value never matters.

Shapes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from training.model.vocabulary import VocabularyMap

FILL_ID = 0


@dataclass(frozen=True)
class TokenisedExample:
    """A prompt and the response to learn, as ids."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Prompt and response together."""
        return len(self.prompt) + len(self.response)

    def narrowed(self, vocabulary: VocabularyMap) -> TokenisedExample:
        """The same example in dense ids."""
        prompt, response = (tuple(vocabulary.narrow(ids)) for ids in (self.prompt, self.response))
        return TokenisedExample(prompt, response, self.weight)


@dataclass(frozen=True)
class ResponseBatch:
    """Right-padded prompt + response; response_mask is 1 on response tokens (EOS included), weights one per row."""

    ids_BT: Tensor
    mask_BT: Tensor
    response_mask_BT: Tensor
    weights_B: Tensor


def pad(rows: Sequence[Sequence[int]], side: str = "right", columns: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids and mask, [B, T] each. side: where the filling goes. columns: T, else the longest row."""
    width = columns if columns is not None else max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), width), FILL_ID, dtype=torch.long)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        ids_BT[index, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[index, start : start + len(row)] = 1
    return ids_BT, mask_BT


def response_batch(examples: Sequence[TokenisedExample]) -> ResponseBatch:
    """Examples side by side."""
    ids_BT, mask_BT = pad([(*example.prompt, *example.response) for example in examples])
    starts_B1 = torch.tensor([[len(example.prompt)] for example in examples])
    response_mask_BT = mask_BT * (torch.arange(ids_BT.shape[1]) >= starts_B1)
    return ResponseBatch(ids_BT, mask_BT, response_mask_BT, torch.tensor([example.weight for example in examples]))


class Long(Protocol):
    """What has a length."""

    @property
    def tokens(self) -> int: ...


L = TypeVar("L", bound=Long)


def of_similar_length(rows: Sequence[L], most: int) -> Iterator[Sequence[L]]:
    """At most so many side by side, the shortest first, so that little is padding."""
    ordered = sorted(rows, key=lambda row: row.tokens)
    for start in range(0, len(ordered), most):
        yield ordered[start : start + most]


def microbatches(examples: Sequence[TokenisedExample], rows: int) -> Iterator[ResponseBatch]:
    """Batches of at most `rows`."""
    for part in of_similar_length(examples, rows):
        yield response_batch(part)
