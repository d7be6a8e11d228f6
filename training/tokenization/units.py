"""Word and character tokenizers: ids for the most frequent units, one unknown token for the rest.

No model uses them; they are baselines for byte pairs.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from enum import StrEnum

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training.errors import ConfigError
from training.tokenization.byte_pairs import pattern_splitter

UNKNOWN = "<|unknown|>"
# Letters and digits with inner apostrophes and hyphens, or any other single character.
WORD_OR_MARK = r"[\p{L}\p{M}\p{N}_]+(?:['’-][\p{L}\p{M}\p{N}_]+)*|[^\s\p{L}\p{M}\p{N}_]"


class Unit(StrEnum):
    """Unit of a tokenizer.

    WORD is the text between white space. WORD_OR_MARK separates words and punctuation marks, and
    writes the first word of a sentence in lower case ("Machine", but not "ML").
    """

    WORD = "word"
    WORD_OR_MARK = "word-or-mark"
    CHARACTER = "character"


def unit_splitter(unit: Unit) -> pre_tokenizers.PreTokenizer:
    """Return the splitter of a unit."""
    match unit:
        case Unit.CHARACTER:
            return pattern_splitter(r"[\s\S]")
        case Unit.WORD:
            return pre_tokenizers.WhitespaceSplit()
        case Unit.WORD_OR_MARK:
            return pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pattern_splitter(WORD_OR_MARK)]
            )


def sentence_case() -> normalizers.Normalizer:
    """Return a normalizer that lowers the first letter of a sentence, unless a capital follows.

    Only A to Z. The library has no replacement by function, hence one rule for each letter.
    """
    return normalizers.Sequence(
        [
            normalizers.Replace(
                Regex(rf"(?:\A|(?<=[.!?]\s)){capital}(?=\p{{Ll}})"), capital.lower()
            )
            for capital in string.ascii_uppercase
        ]
    )


def learn_units(texts: Iterable[str], vocabulary: int, unit: Unit) -> Tokenizer:
    """Return a tokenizer of the most frequent units of the texts.

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
    tokenizer.pre_tokenizer = unit_splitter(unit)
    if unit is Unit.WORD_OR_MARK:
        tokenizer.normalizer = sentence_case()
    if unit is Unit.CHARACTER:
        tokenizer.decoder = decoders.Fuse()  # words are joined by spaces
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
