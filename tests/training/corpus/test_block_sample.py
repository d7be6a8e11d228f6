"""Samples for the comparison of tokenizers: bounded, independent of order, without repetitions."""

from __future__ import annotations

import random

from training.corpus.block_sample import BLOCK_CHARACTERS, Block, LowestBlocks, cut, take_sample
from training.corpus.document import Document, Origin

TEXTS = [f"{number} " + "word " * 200 for number in range(400)]


def documents(texts: list[str]) -> list[Document]:
    return [Document(Origin(str(number)), text) for number, text in enumerate(texts)]


def test_sample_is_bounded_and_independent_of_the_order_of_texts() -> None:
    learning, held_out = take_sample(documents(TEXTS), 0.2, max_bytes=100_000)
    assert 95_000 < sum(len(block.text) for block in learning) <= 100_000
    assert {block.text for block in learning}.isdisjoint(block.text for block in held_out)
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert take_sample(documents(shuffled), 0.2, max_bytes=100_000) == (learning, held_out)


def test_share_of_the_blocks_is_held_out() -> None:
    learning, held_out = take_sample(documents(TEXTS), 0.2, max_bytes=10_000_000)
    assert len(learning) + len(held_out) == len(TEXTS)
    assert 50 <= len(held_out) <= 110  # 80, with four standard deviations


def test_repeated_block_is_taken_once() -> None:
    learning, held_out = take_sample(documents([TEXTS[0]] * 9), 0.2, max_bytes=10_000_000)
    assert len(learning) + len(held_out) == 1


def test_block_above_the_limit_is_kept_alone() -> None:
    blocks = LowestBlocks(10)
    for number in (3, 1, 2):
        blocks.add(Block(number, "x" * 20, ""))
    assert [block.number for block in blocks.in_order()] == [1]


def test_blocks_end_before_a_space_and_make_up_the_text() -> None:
    text = "word " * 3000 + "x" * 3 * BLOCK_CHARACTERS + "\n" + "日本" * 5000
    blocks = list(cut(text))
    assert "".join(blocks) == text
    assert max(map(len, blocks)) <= BLOCK_CHARACTERS
    assert all(block.endswith("word") for block in blocks[:2])
    assert list(cut(" \n" * BLOCK_CHARACTERS)) == []
