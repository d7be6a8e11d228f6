"""Lists of token ids to padded tensors, on the device where they are read. Masks say what is real;
the fill value never matters.

They are made on the processor and sent at once: a row of its own would be a copy of its own.
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
    """Right-padded prompt + response; weights one per row. response_mask_BT: True on response
    tokens (EOS included); it stays on the processor, as whoever picks by a mask of the accelerator
    waits to know how many there are.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    response_mask_BT: Tensor
    weights_B: Tensor


def pad(
    rows: Sequence[Sequence[int]], side: str = "right", columns: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ids and mask, [B, T] each. side: where the filling goes. columns: T, else the longest row."""
    ids_BT, mask_BT = _padded(rows, side, columns)
    device = torch.get_default_device()
    return ids_BT.to(device), mask_BT.to(device)


def response_batch(examples: Sequence[TokenisedExample]) -> ResponseBatch:
    """Examples side by side."""
    ids_BT, mask_BT = _padded([(*example.prompt, *example.response) for example in examples])
    starts_B1 = torch.tensor([[len(example.prompt)] for example in examples], device="cpu")
    response_BT = mask_BT.bool() & (torch.arange(ids_BT.shape[1], device="cpu") >= starts_B1)
    device = torch.get_default_device()
    weights_B = torch.tensor([example.weight for example in examples])
    return ResponseBatch(ids_BT.to(device), mask_BT.to(device), response_BT, weights_B)


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


def _padded(
    rows: Sequence[Sequence[int]], side: str = "right", columns: int | None = None
) -> tuple[Tensor, Tensor]:
    width = columns if columns is not None else max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), width), FILL_ID, dtype=torch.long, device="cpu")
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long, device="cpu")
    for index, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        ids_BT[index, start : start + len(row)] = torch.tensor(row, dtype=torch.long, device="cpu")
        mask_BT[index, start : start + len(row)] = 1
    return ids_BT, mask_BT
