"""Byte-level byte pair encoding, learned with the library `tokenizers`.

Source: Sennrich et al., arXiv 1508.07909; on bytes as in GPT-2. Every byte is a token, so any text
can be encoded. Results depend on texts and settings only, with any number of threads. A directory
also has the control tokens and the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from durable_files.files import make_directory
from training.errors import ConfigError

TOKENIZER = "tokenizer.json"
# Control tokens have the first ids, which are the same for every vocabulary.
PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
CONTROL = (PAD, BEGIN, END, "<|system|>", "<|user|>", "<|assistant|>")
MIN_VOCABULARY = 256 + len(CONTROL)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    + END
    + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Split(StrEnum):
    """Pre-tokenization pattern; no token crosses a piece boundary.

    GPT2 is nano's and the library's own. GPT4 groups digits by at most three and attaches line ends
    to the preceding characters.
    """

    GPT2 = "gpt2"
    GPT4 = "gpt4"


# Two engines use the patterns, Oniguruma (tokenizers) and fancy-regex (tiktoken). Both spellings
# here have the same meaning in both, tested on every code point. tiktoken's newer possessive
# spelling does not: to Oniguruma `{1,3}+` is a repetition of a repetition.
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
    return byte_level_pattern(PATTERNS[split])


def byte_level_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Return a splitter by a pattern that writes each byte as one letter."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pattern_splitter(pattern), letters])


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
    return _learn(texts, vocabulary, byte_level_splitter(split), CONTROL, least_count)


def learn_merges(
    texts: Iterable[str],
    vocabulary: int,
    pattern: str,
    normalizer: normalizers.Normalizer | None = None,
) -> Tokenizer:
    """Return a tokenizer with the 256 bytes and merges, without control tokens.

    Args:
        vocabulary: maximum number of tokens, at least 256; smaller if the texts have fewer pairs.
        pattern: pre-tokenization.

    Raises:
        ConfigError: `vocabulary` is too small.
    """
    return _learn(texts, vocabulary, byte_level_pattern(pattern), (), 2, normalizer)


def _learn(
    texts: Iterable[str],
    vocabulary: int,
    splitter: pre_tokenizers.PreTokenizer,
    control: tuple[str, ...],
    least_count: int,
    normalizer: normalizers.Normalizer | None = None,
) -> Tokenizer:
    least = 256 + len(control)
    if vocabulary < least:
        raise ConfigError(
            f"vocabulary: {vocabulary}, at least {least}:"
            f" 256 bytes and {len(control)} control tokens",
            field="vocabulary",
            reason="OUT_OF_RANGE",
            limit=f"at least {least}",
        )
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=least_count,
        special_tokens=list(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: Path) -> Tokenizer:
    """Learn the tokenizer of the `nano` model and write its directory.

    GPT-2's splitting and no minimum count: rare pairs are merged too, so that small corpora fill
    the vocabulary. nano's files must remain byte identical, because embedding rows belong to ids.

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


def write_chat_files(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    write_tokenizer(tokenizer, directory)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    ids = {
        "bos_token_id": tokenizer.token_to_id(BEGIN),
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
    }
    (directory / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json only, for tokenizers without a model."""
    make_directory(directory)
    tokenizer.save(str(directory / TOKENIZER))


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
