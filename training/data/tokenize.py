"""The tokenizer that `nano` speaks: our byte pairs with GPT-2's splitting, and every pair merged,
however rare, so that toys of a few words fill their vocabulary too.

nano's own files are to stay the same bytes: a model's rows belong to ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from training.errors import ConfigError
from training.tokenization.byte_pairs import FEWEST_TOKENS, learn_byte_pairs
from training.tokenization.control import CONTROL, write_chat_files
from training.tokenization.splitting import Split

__all__ = ["CONTROL", "train_tokenizer"]


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: Path) -> Tokenizer:
    """Learn merges from `texts` and write tokenizer.json, tokenizer_config.json and
    generation_config.json.

    Args:
        vocab_size: at least 262: 256 bytes and the control tokens.
    """
    if vocab_size < FEWEST_TOKENS:
        raise ConfigError(
            f"vocab_size: {vocab_size}, at least {FEWEST_TOKENS}",
            field="vocab_size",
            reason="OUT_OF_RANGE",
            limit=f"at least {FEWEST_TOKENS}",
        )
    tokenizer = learn_byte_pairs(texts, vocab_size, Split.GPT2, least_count=0)
    write_chat_files(tokenizer, directory)
    return tokenizer
