"""The regular expressions that cut a text into pieces before byte pairs are merged: no token ever
reaches across a cut.

Two engines read them, Oniguruma (tokenizers) and fancy-regex (tiktoken). Both spellings here mean
the same to both, tested on every code point; tiktoken's newer possessive spelling does not: to
Oniguruma `{1,3}+` is a repetition of a repetition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from tokenizers import Regex, pre_tokenizers


class Split(StrEnum):
    """GPT2: nano's, and the library's own. GPT4: digits in groups of at most three, line ends with
    what stands before them.
    """

    GPT2 = "gpt2"
    GPT4 = "gpt4"


# GPT-2's encoder.py (github.com/openai/gpt-2), and cl100k_base of tiktoken 0.3 to 0.6
# (tiktoken_ext/openai_public.py), which Llama 3 took over.
PATTERNS = {
    Split.GPT2: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    Split.GPT4: (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
}


def byte_level_splitter(split: Split) -> pre_tokenizers.PreTokenizer:
    """Cuts, then writes each byte as one letter (GPT-2's byte alphabet)."""
    if split is Split.GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([cutter(PATTERNS[split]), letters])


def cutter(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Every match is a piece, and so is what lies between two."""
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def recognise(pre_tokenizer: Mapping[str, Any] | None) -> Split | None:
    """Which of ours a tokenizer.json has; None: it cuts in another way."""
    return next(
        (
            split
            for split in Split
            if json.loads(byte_level_splitter(split).__getstate__()) == pre_tokenizer
        ),
        None,
    )
