"""A tokenizer.json as tiktoken reads it: each token's bytes with its id as rank, and the expression
that cuts.

tiktoken merges the pair whose *bytes* have the lowest id, tokenizers the pair that stands first
among the merges. That is the same only where ids rise with the merges and each token's bytes come
out as that token, which training sees to and `hindrance` checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tiktoken
from tokenizers import Tokenizer

from training.tokenization.byte_pairs import bytes_by_letter
from training.tokenization.splitting import PATTERNS, recognise

# What a model of ours has; None and "" mean the same.
PLAIN_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


def encoding_of(tokenizer: Tokenizer, spec: Mapping[str, Any], name: str) -> tiktoken.Encoding:
    """The encoding of a tokenizer that nothing hinders. `spec` is its tokenizer.json.

    Raises:
        ValueError: something does; the text names the field.
    """
    split = recognise(spec["pre_tokenizer"])
    if split is None or (reason := hindrance(tokenizer, spec)):
        raise ValueError(f"tokenizer.json: {reason if split else PRE_TOKENIZER}")
    letters, control = bytes_by_letter(), _control(spec)
    ranks = {
        bytes(letters[letter] for letter in token): token_id
        for token, token_id in spec["model"]["vocab"].items()
        if token not in control
    }
    return tiktoken.Encoding(
        name, pat_str=PATTERNS[split], mergeable_ranks=ranks, special_tokens=control
    )


def hindrance(tokenizer: Tokenizer, spec: Mapping[str, Any]) -> str:
    """Why tiktoken might give other ids than the library; empty: it gives the same."""
    model = spec["model"]
    for field, plain in PLAIN_MODEL.items():
        if (model.get(field) or None) != (plain or None):
            return f"model.{field}: {model.get(field)!r}, only {plain!r} is read alike"
    if spec["normalizer"] is not None:
        return "normalizer: texts are changed before they are cut"
    if recognise(spec["pre_tokenizer"]) is None:
        return PRE_TOKENIZER
    if not all(token["special"] for token in spec["added_tokens"]):
        return "added_tokens: one that is not special is found in texts"
    return _merge_hindrance(tokenizer, model["vocab"], model["merges"], _control(spec))


PRE_TOKENIZER = "pre_tokenizer: cuts in another way than ours"


def _merge_hindrance(
    tokenizer: Tokenizer,
    vocab: Mapping[str, int],
    merges: list[list[str]],
    control: Mapping[str, int],
) -> str:
    made = [vocab[left + right] for left, right in merges]
    if made != sorted(set(made)):
        return "model.merges: ids do not rise with them"
    if not bytes_by_letter().keys() <= vocab.keys():
        return "model.vocab: a byte is missing"
    for token in vocab.keys() - control.keys():
        if [found.value for found in tokenizer.model.tokenize(token)] != [token]:
            return f"model.vocab: {token!r} is never made by the merges"
    return ""


def _control(spec: Mapping[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in spec["added_tokens"]}
