"""Word and character tokenizers: ids for the most frequent units, one unknown token for the rest.

No model uses them; they are baselines for byte pairs. A word is a piece of GPT-4's splitting, so
byte pairs of the same splitting can at best become words.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, trainers

from training.errors import ConfigError
from training.tokenization.byte_pairs import PATTERNS, Split, pattern_splitter

UNKNOWN = "<|unknown|>"
WORD, CHARACTER = PATTERNS[Split.GPT4], r"[\s\S]"


def learn_units(texts: Iterable[str], vocabulary: int, pattern: str) -> Tokenizer:
    """Return a tokenizer of the most frequent matches of the pattern (WORD or CHARACTER).

    Equal frequencies are ordered by code point.

    Args:
        vocabulary: maximum number of tokens, including the unknown token.

    Raises:
        ConfigError: `vocabulary` is below 2.
    """
    if vocabulary < 2:
        raise ConfigError(
            f"vocabulary: {vocabulary}, at least 2: the unknown token and one more",
            field="vocabulary",
            reason="OUT_OF_RANGE",
            limit="at least 2",
        )
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pattern_splitter(pattern)
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
