"""Byte-level byte pair encoding (Sennrich et al., arXiv 1508.07909; on bytes: GPT-2), learned
through the library `tokenizers`.

Any text can be encoded, as every byte is a token. What comes out depends on the texts and the
settings alone, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.errors import ConfigError
from training.tokenization.control import CONTROL
from training.tokenization.splitting import Split, byte_level_splitter

FEWEST_TOKENS = 256 + len(CONTROL)


def learn_byte_pairs(
    texts: Iterable[str], vocabulary: int, split: Split, least_count: int
) -> Tokenizer:
    """Control tokens, the 256 bytes, then merges, the most frequent pair first.

    Args:
        texts: taken one after another; the library holds 256 of them and the count of each distinct
            piece, never all.
        vocabulary: tokens at most, and at least FEWEST_TOKENS. Fewer come out where the texts have
            no more pairs.
        least_count: how often a pair must stand in the texts to be merged.
    """
    if vocabulary < FEWEST_TOKENS:
        raise ConfigError(
            f"vocabulary: {vocabulary}, at least {FEWEST_TOKENS}: 256 bytes and {len(CONTROL)} control tokens",
            field="vocabulary",
            reason="OUT_OF_RANGE",
            limit=f"at least {FEWEST_TOKENS}",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level_splitter(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=least_count,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def bytes_by_letter() -> dict[str, int]:
    """GPT-2's byte alphabet (encoder.py): a printable Latin-1 character stands for itself, the
    others for U+0100 and on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }
