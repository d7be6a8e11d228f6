"""Byte-level byte pair encoding, learned with the library `tokenizers`.

Source: Sennrich et al., arXiv 1508.07909; on bytes as in GPT-2. Every byte is a token, so any text
can be encoded. Results depend on texts and settings only, with any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.errors import ConfigError
from training.tokenization.control import CONTROL
from training.tokenization.splitting import Split, byte_level_splitter

MIN_VOCABULARY = 256 + len(CONTROL)


def learn_byte_pairs(
    texts: Iterable[str], vocabulary: int, split: Split, least_count: int
) -> Tokenizer:
    """Return a tokenizer with control tokens, the 256 bytes, and merges by frequency.

    Args:
        texts: read one by one; the library holds 256 texts and the count of each distinct piece.
        vocabulary: maximum number of tokens, at least MIN_VOCABULARY; smaller if the texts have
            fewer pairs.
        least_count: minimum number of occurrences of a merged pair.

    Raises:
        ConfigError: `vocabulary` is too small.
    """
    if vocabulary < MIN_VOCABULARY:
        raise ConfigError(
            f"vocabulary: {vocabulary}, at least {MIN_VOCABULARY}:"
            f" 256 bytes and {len(CONTROL)} control tokens",
            field="vocabulary",
            reason="OUT_OF_RANGE",
            limit=f"at least {MIN_VOCABULARY}",
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
    """Return GPT-2's byte alphabet (encoder.py) as letter to byte.

    Printable Latin-1 characters represent themselves; other bytes use U+0100 and above.
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
