"""Word and character tokenizers: the most frequent ones have an id, every other is one and the same
unknown token.

No model speaks them; they show what byte pairs are good for. A word is a piece of GPT-4's
splitting, so that byte pairs of the same splitting can at best become words.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, trainers

from training.errors import ConfigError
from training.tokenization.splitting import PATTERNS, Split, cutter

UNKNOWN = "<|unknown|>"
WORD, CHARACTER = PATTERNS[Split.GPT4], r"[\s\S]"


def learn_units(texts: Iterable[str], vocabulary: int, pattern: str) -> Tokenizer:
    """The unknown token and the most frequent matches of the pattern (WORD or CHARACTER); of
    equally frequent ones the first by code point.

    Args:
        vocabulary: tokens at most, the unknown one included.
    """
    if vocabulary < 2:
        raise ConfigError(
            f"vocabulary: {vocabulary}, at least 2: the unknown token and one more",
            field="vocabulary",
            reason="OUT_OF_RANGE",
            limit="at least 2",
        )
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = cutter(pattern)
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
