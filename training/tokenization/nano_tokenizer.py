"""Tokenizer of the `nano` model: byte pairs with GPT-2's splitting and no minimum count.

Rare pairs are merged too, so that small corpora fill the vocabulary. nano's files must remain byte
identical, because embedding rows belong to ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from training.errors import ConfigError
from training.tokenization.byte_pairs import MIN_VOCABULARY, learn_byte_pairs
from training.tokenization.control import CONTROL, write_chat_files
from training.tokenization.splitting import Split

__all__ = ["CONTROL", "train_tokenizer"]


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: Path) -> Tokenizer:
    """Learn merges and write tokenizer.json, tokenizer_config.json and generation_config.json.

    Args:
        vocab_size: at least 262, for 256 bytes and the control tokens.
    """
    if vocab_size < MIN_VOCABULARY:
        raise ConfigError(
            f"vocab_size: {vocab_size}, at least {MIN_VOCABULARY}",
            field="vocab_size",
            reason="OUT_OF_RANGE",
            limit=f"at least {MIN_VOCABULARY}",
        )
    tokenizer = learn_byte_pairs(texts, vocab_size, Split.GPT2, least_count=0)
    write_chat_files(tokenizer, directory)
    return tokenizer
