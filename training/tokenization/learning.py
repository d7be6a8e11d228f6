"""Training of a tokenizer of any kind from texts, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tokenizers import Tokenizer

from training.tokenization.byte_pairs import (
    Split,
    learn_byte_pairs,
    write_chat_files,
    write_tokenizer,
)
from training.tokenization.units import Unit, learn_units


class TokenKind(StrEnum):
    """Kind of the tokens in a vocabulary."""

    BYTE_PAIRS = "byte-pairs"
    WORDS = "words"
    WORDS_AND_MARKS = "words-and-marks"
    CHARACTERS = "characters"


UNITS = {
    TokenKind.WORDS: Unit.WORD,
    TokenKind.WORDS_AND_MARKS: Unit.WORD_OR_MARK,
    TokenKind.CHARACTERS: Unit.CHARACTER,
}


@dataclass(frozen=True)
class TokenizerConfig:
    """Training settings of a tokenizer. `split` and `least_count` apply to byte pairs only."""

    vocabulary: int
    kind: TokenKind = TokenKind.BYTE_PAIRS
    split: Split = Split.GPT4
    # A pair with a single occurrence would only add an embedding row.
    least_count: int = 2


def learn(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a tokenizer in one pass over the texts."""
    if config.kind is TokenKind.BYTE_PAIRS:
        return learn_byte_pairs(texts, config.vocabulary, config.split, config.least_count)
    return learn_units(texts, config.vocabulary, UNITS[config.kind])


def save(tokenizer: Tokenizer, config: TokenizerConfig, directory: Path) -> None:
    """Write tokenizer.json and, for byte pairs, the chat files."""
    write = write_chat_files if config.kind is TokenKind.BYTE_PAIRS else write_tokenizer
    write(tokenizer, directory)
