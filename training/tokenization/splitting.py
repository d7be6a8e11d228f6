"""Regular expressions for pre-tokenization; no token crosses a piece boundary.

Two engines use them, Oniguruma (tokenizers) and fancy-regex (tiktoken). Both spellings here have
the same meaning in both, tested on every code point. tiktoken's newer possessive spelling does not:
to Oniguruma `{1,3}+` is a repetition of a repetition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from tokenizers import Regex, pre_tokenizers


class Split(StrEnum):
    """Pre-tokenization pattern.

    GPT2 is nano's and the library's own. GPT4 groups digits by at most three and attaches line ends
    to the preceding characters.
    """

    GPT2 = "gpt2"
    GPT4 = "gpt4"


# GPT-2: encoder.py (github.com/openai/gpt-2). GPT-4: cl100k_base of tiktoken 0.3 to 0.6
# (tiktoken_ext/openai_public.py), adopted by Llama 3.
PATTERNS = {
    Split.GPT2: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    Split.GPT4: (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def byte_level_splitter(split: Split) -> pre_tokenizers.PreTokenizer:
    """Return a splitter that writes each byte as one letter (GPT-2's byte alphabet)."""
    if split is Split.GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pattern_splitter(PATTERNS[split]), letters])


def pattern_splitter(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Return a splitter with pieces for every match and every gap between matches."""
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def identify_split(pre_tokenizer: Mapping[str, Any] | None) -> Split | None:
    """Return the pattern of a tokenizer.json, or None for a foreign pre-tokenizer."""
    return next(
        (
            split
            for split in Split
            if json.loads(byte_level_splitter(split).__getstate__()) == pre_tokenizer
        ),
        None,
    )
