"""Padded tensors from lists of token ids, on the default device.

Masks mark the real tokens; the fill value has no effect. Batches are assembled on the CPU and sent
in one copy, since separate rows would need separate copies. Shapes: B batch, T tokens.
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
    """A prompt and its target response as ids."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Number of tokens of prompt and response."""
        return len(self.prompt) + len(self.response)

    def to_dense(self, vocabulary: VocabularyMap) -> TokenisedExample:
        """Return the example in dense ids."""
        prompt, response = (tuple(vocabulary.narrow(ids)) for ids in (self.prompt, self.response))
        return TokenisedExample(prompt, response, self.weight)


@dataclass(frozen=True)
class ResponseBatch:
    """Right-padded prompts with responses, and one weight per row.

    response_mask_BT is True for response tokens including EOS. This mask stays on the CPU: indexing
    with a mask on the accelerator waits for the number of selected elements.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    response_mask_BT: Tensor
    weights_B: Tensor


def pad(
    rows: Sequence[Sequence[int]], side: str = "right", columns: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return ids and mask, each [B, T].

    Args:
        side: side of the padding, "left" or "right".
        columns: T; default: the longest row.
    """
    ids_BT, mask_BT = _padded(rows, side, columns)
    device = torch.get_default_device()
    return ids_BT.to(device), mask_BT.to(device)


def response_batch(examples: Sequence[TokenisedExample]) -> ResponseBatch:
    """Stack examples into one batch."""
    ids_BT, mask_BT = _padded([(*example.prompt, *example.response) for example in examples])
    starts_B1 = torch.tensor([[len(example.prompt)] for example in examples], device="cpu")
    # Response tokens are the real tokens from the end of the prompt.
    response_BT = mask_BT.bool() & (torch.arange(ids_BT.shape[1], device="cpu") >= starts_B1)
    device = torch.get_default_device()
    weights_B = torch.tensor([example.weight for example in examples])
    return ResponseBatch(ids_BT.to(device), mask_BT.to(device), response_BT, weights_B)


class HasTokens(Protocol):
    """Item with a length in tokens."""

    @property
    def tokens(self) -> int: ...


L = TypeVar("L", bound=HasTokens)


def length_groups(rows: Sequence[L], group_size: int) -> Iterator[Sequence[L]]:
    """Yield groups of at most `group_size` rows, shortest first, to keep padding small."""
    ordered = sorted(rows, key=lambda row: row.tokens)
    for start in range(0, len(ordered), group_size):
        yield ordered[start : start + group_size]


def microbatches(examples: Sequence[TokenisedExample], rows: int) -> Iterator[ResponseBatch]:
    """Yield batches of at most `rows` examples."""
    for part in length_groups(examples, rows):
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
