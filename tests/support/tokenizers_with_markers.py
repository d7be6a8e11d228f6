"""Tokenizers with control tokens for tests: of families, of normalisers, and of flags."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

LLAMA_3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
# Each contains another one, or begins as another one ends.
NESTED = ("<a>", "<b<a>c>", "<a><a>", "aba", "a>b", "< a>")


def byte_level(
    special: tuple[str, ...],
    normalizer: Any = None,
    in_vocabulary: bool = False,
    **flags: bool,
) -> Tokenizer:
    """Return a tokenizer with one token for each byte.

    Args:
        special: control tokens.
        normalizer: normaliser of texts.
        in_vocabulary: give the control tokens ids of ordinary pieces, as SentencePiece does.
        flags: flags of the control tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *special] if in_vocabulary else alphabet
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    flags = {"normalized": False, **flags}
    tokenizer.add_special_tokens([AddedToken(text, special=True, **flags) for text in special])
    return tokenizer


def sentence_pieces(special: tuple[str, ...]) -> Tokenizer:
    """Return a unigram tokenizer whose vocabulary contains the control tokens, as in T5 and XLM."""
    letters = [(chr(code), -5.0) for code in range(33, 127)]
    vocabulary = [("<unk>", 0.0), *((text, 0.0) for text in special), ("▁", -2.0), *letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return tokenizer


def tokenizers() -> dict[str, tuple[Tokenizer, tuple[str, ...]]]:
    """Return tokenizers with their control tokens by a name for test ids."""
    folded = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bare = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    marked = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return {
        "llama-3": (byte_level(LLAMA_3), LLAMA_3),
        "chatml, NFC": (byte_level(CHATML, normalizers.NFC()), CHATML),
        "NFKC": (byte_level(CHATML, normalizers.NFKC(), normalized=True), CHATML),
        "case": (byte_level(CHATML, folded, normalized=True), CHATML),
        "accents": (byte_level(CHATML, bare, normalized=True), CHATML),
        "bert": (byte_level(CHATML, normalizers.BertNormalizer(), normalized=True), CHATML),
        "spaces": (byte_level(("<s>", "</s>"), marked, normalized=True), ("<s>", "</s>")),
        "strip": (byte_level(CHATML, lstrip=True, rstrip=True), CHATML),
        "words": (byte_level(CHATML, single_word=True), CHATML),
        "pieces": (byte_level(CHATML, normalizers.NFKC(), in_vocabulary=True), CHATML),
        "unigram": (sentence_pieces(("<s>", "</s>")), ("<s>", "</s>")),
        "nested": (byte_level(NESTED), NESTED),
        "signs": (byte_level(("(1)", "fi"), normalizers.NFKC(), normalized=True), ("(1)", "fi")),
    }


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> Path:
    """Save the tokenizer as the files of a model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({}))
    return directory
