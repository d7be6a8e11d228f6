"""Conversion of a tokenizer.json to a tiktoken encoding.

The encoding has the bytes of each token with the id as rank, and the splitting pattern. tiktoken
merges the pair whose *bytes* have the lowest id; tokenizers merges the pair listed first in the
merges. Both agree only if ids rise with the merges and the bytes of each token encode to that
token. Our training guarantees this, and `incompatibility` checks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tiktoken
from tokenizers import Tokenizer

from training.tokenization.byte_pairs import bytes_by_letter
from training.tokenization.splitting import PATTERNS, identify_split

# Required model fields; None and "" are equivalent.
REQUIRED_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


def to_tiktoken(tokenizer: Tokenizer, spec: Mapping[str, Any], name: str) -> tiktoken.Encoding:
    """Return the encoding of a compatible tokenizer. `spec` is its tokenizer.json.

    Raises:
        ValueError: the tokenizer is incompatible; the message names the field.
    """
    split = identify_split(spec["pre_tokenizer"])
    if split is None or (reason := incompatibility(tokenizer, spec)):
        raise ValueError(f"tokenizer.json: {reason if split else PRE_TOKENIZER}")
    letters, control = bytes_by_letter(), _control_tokens(spec)
    ranks = {
        bytes(letters[letter] for letter in token): token_id
        for token, token_id in spec["model"]["vocab"].items()
        if token not in control
    }
    return tiktoken.Encoding(
        name, pat_str=PATTERNS[split], mergeable_ranks=ranks, special_tokens=control
    )


def incompatibility(tokenizer: Tokenizer, spec: Mapping[str, Any]) -> str:
    """Return the reason for possibly different ids in tiktoken, or "" for identical ids."""
    model = spec["model"]
    for field, plain in REQUIRED_MODEL.items():
        if (model.get(field) or None) != (plain or None):
            return f"model.{field}: {model.get(field)!r}, only {plain!r} is supported by both"
    if spec["normalizer"] is not None:
        return "normalizer: texts are changed before splitting"
    if identify_split(spec["pre_tokenizer"]) is None:
        return PRE_TOKENIZER
    if not all(token["special"] for token in spec["added_tokens"]):
        return "added_tokens: a token that is not special is matched inside texts"
    return _merge_incompatibility(tokenizer, model["vocab"], model["merges"], _control_tokens(spec))


PRE_TOKENIZER = "pre_tokenizer: differs from the known patterns"


def _merge_incompatibility(
    tokenizer: Tokenizer,
    vocab: Mapping[str, int],
    merges: list[list[str]],
    control: Mapping[str, int],
) -> str:
    made = [vocab[left + right] for left, right in merges]
    if made != sorted(set(made)):
        return "model.merges: ids are not in the order of the merges"
    if not bytes_by_letter().keys() <= vocab.keys():
        return "model.vocab: a byte is missing"
    for token in vocab.keys() - control.keys():
        if [found.value for found in tokenizer.model.tokenize(token)] != [token]:
            return f"model.vocab: {token!r} is not reachable by the merges"
    return ""


def _control_tokens(spec: Mapping[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in spec["added_tokens"]}
