"""Samples of a corpus for the comparison of tokenizers: learning text and held-out text.

Texts are cut into blocks, and the blocks with the lowest hashes are kept. The sample is therefore
bounded in memory, independent of the order of the texts, and free of repeated blocks.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from training.corpus.document import Document
from training.data.seeds import SEED_VALUES, seed_of

SEED = 20_261_129
# Small, so that even a page of text has several blocks, as in the tokenizers of train.
BLOCK_CHARACTERS = 4096


@dataclass(frozen=True, order=True, slots=True)
class Block:
    """A part of a text; `number` is its hash, `language` that of the document or ""."""

    number: int
    text: str
    language: str


class LowestBlocks:
    """The blocks with the lowest numbers, up to a number of bytes; at least one."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._highest_first: list[tuple[int, int, Block]] = []  # -number, bytes
        self._numbers: set[int] = set()

    def add(self, block: Block) -> None:
        if block.number in self._numbers:
            return
        size = len(block.text.encode())
        self._numbers.add(block.number)
        heapq.heappush(self._highest_first, (-block.number, size, block))
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._highest_first) > 1:
            _, size, dropped = heapq.heappop(self._highest_first)
            self._bytes -= size
            self._numbers.remove(dropped.number)

    def in_order(self) -> list[Block]:
        return sorted(block for _, _, block in self._highest_first)


def take_sample(
    documents: Iterable[Document], held_out_share: float, max_bytes: int
) -> tuple[list[Block], list[Block]]:
    """Return blocks to learn from and held-out blocks, each at most `max_bytes` in UTF-8."""
    learning, held_out = LowestBlocks(max_bytes), LowestBlocks(max_bytes)
    for document in documents:
        for text in cut(document.text):
            number = seed_of(SEED, text)
            is_held_out = number < held_out_share * SEED_VALUES
            (held_out if is_held_out else learning).add(Block(number, text, document.language))
    return learning.in_order(), held_out.in_order()


def cut(text: str, characters: int = BLOCK_CHARACTERS) -> Iterator[str]:
    """Yield the blocks of a text that are not only white space; a block ends before a space.

    Args:
        characters: largest length of a block.
    """
    start = 0
    while start < len(text):
        end = start + characters
        if end < len(text):
            space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = space if space > 0 else end
        block = text[start:end]
        start = end
        if not block.isspace():
            yield block
