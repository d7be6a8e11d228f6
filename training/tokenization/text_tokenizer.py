"""Tokenizers opened from a directory, for encoding and for display of each token's bytes.

Our byte pairs and the published encodings (published.py) encode through tiktoken, all others
through the library `tokenizers` (docs/decisions/pre-training.md). Both treat control tokens inside
a text as text; only chat templates insert real ones.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tokenizers import Tokenizer

from training.errors import DetailedError
from training.model.fields import absent, missing
from training.tokenization.byte_pairs import PATTERNS, TOKENIZER, bytes_by_letter, identify_split

if TYPE_CHECKING:
    import tiktoken

# fancy-regex keeps a backtracking state per character of a run of white space and panics at a
# million (measured with tiktoken 0.14). Oniguruma does not. Python's \s is a superset of theirs.
LONG_RUN = re.compile(r"\s{500000}")
LONG_RUN_CHARACTERS = 500_000
BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
PRE_TOKENIZER = "pre_tokenizer: differs from the known patterns"
# Model fields required by tiktoken; None and "" are equivalent.
REQUIRED_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


class TokenizerError(DetailedError, ValueError):
    """Error for a directory without a usable tokenizer; the message names file and field."""

    reason = "INVALID_TOKENIZER"


@dataclass(frozen=True)
class Piece:
    """One token of a text with its bytes. `known` is False for the unknown token."""

    id: int
    content: bytes
    known: bool = True


class TextTokenizer(Protocol):
    """Interface of tokenizers for corpus, comparison and page."""

    name: str
    vocabulary_size: int  # highest id + 1, the number of embedding rows

    def encode(self, text: str) -> list[int]: ...

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several texts on all cores."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; invalid UTF-8 becomes U+FFFD."""

    def unknowns(self, ids: Sequence[int]) -> int:
        """Return the number of unknown tokens."""

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens with their bytes.

        All bytes together are the text, less the white space that a splitter of words drops.
        """


class LibraryTokenizer:
    """Tokenizer for any tokenizer.json.

    The bytes of a token come from the byte alphabet, from byte fallbacks, or from the text.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, spec: dict[str, Any]) -> None:
        self.name = name
        self.vocabulary_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._unknown_id = spec["model"].get(
            "unk_id", tokenizer.token_to_id(spec["model"].get("unk_token") or "")
        )
        self._added_ids = {token["id"] for token in spec["added_tokens"]}
        self._letters = (
            bytes_by_letter() if "ByteLevel" in json.dumps(spec["pre_tokenizer"]) else None
        )

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            found.ids
            for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def unknowns(self, ids: Sequence[int]) -> int:
        return 0 if self._unknown_id is None else list(ids).count(self._unknown_id)

    def pieces(self, text: str) -> list[Piece]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces = []
        found = zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        for token_id, token, (start, end) in found:
            covered, fallback = text[start:end], BYTE_FALLBACK.fullmatch(token)
            if self._letters is not None and token_id not in self._added_ids:
                content = bytes(self._letters[letter] for letter in token)
            elif fallback and covered != token:
                content = bytes([int(fallback[1], 16)])
            else:
                content = covered.encode()
            pieces.append(Piece(token_id, content, token_id != self._unknown_id))
        return pieces


class BytePairs:
    """Byte pairs through tiktoken.

    Args:
        library: a tokenizer with the same ids, for texts that tiktoken cannot encode; without it
            they are refused.
    """

    def __init__(
        self, encoding: tiktoken.Encoding, library: LibraryTokenizer | None = None
    ) -> None:
        self.name = encoding.name
        self.vocabulary_size = encoding.n_vocab
        self._encoding, self._library = encoding, library

    def encode(self, text: str) -> list[int]:
        if not _is_too_long(text):
            return self._encoding.encode_ordinary(text)
        if self._library is None:
            raise TokenizerError(
                f"text: {LONG_RUN_CHARACTERS} white-space characters in a row; {self.name} allows"
                f" fewer",
                field="text",
                reason="TOO_LONG",
                limit=str(LONG_RUN_CHARACTERS - 1),
            )
        return self._library.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        if any(map(_is_too_long, texts)):
            return [self.encode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(
            list(texts), num_threads=len(os.sched_getaffinity(0))
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode_bytes(ids).decode("utf-8", errors="replace")

    def unknowns(self, ids: Sequence[int]) -> int:
        return 0  # every byte is a token

    def pieces(self, text: str) -> list[Piece]:
        return [
            Piece(token_id, self._encoding.decode_single_token_bytes(token_id))
            for token_id in self.encode(text)
        ]


def open_tokenizer(directory: Path) -> TextTokenizer:
    """Open the tokenizer of a directory, which may be a model directory.

    Raises:
        TokenizerError: tokenizer.json is missing or invalid, or the model has fewer embedding rows
        than the tokenizer has ids.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise TokenizerError(missing(path), field=absent(path), reason="MISSING")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(
            f"{TOKENIZER}: unreadable in {directory.name}: {error}",
            field=TOKENIZER,
            reason="MALFORMED",
        ) from error
    spec = json.loads(tokenizer.to_str())
    library = LibraryTokenizer(directory.name, tokenizer, spec)
    _check_rows(directory, library.vocabulary_size)
    if incompatibility(tokenizer, spec):
        return library
    return BytePairs(to_tiktoken(tokenizer, spec, directory.name), library)


def _is_too_long(text: str) -> bool:
    """Return True if tiktoken would panic."""
    return len(text) >= LONG_RUN_CHARACTERS and LONG_RUN.search(text) is not None


def _check_rows(directory: Path, vocabulary_size: int) -> None:
    """Check the number of embedding rows.

    Larger ids crash on a CPU and silently give wrong output on a GPU.
    """
    path = directory / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    # Multimodal models have the text part in text_config.
    rows = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if rows is not None and rows < vocabulary_size:
        raise TokenizerError(
            f"{TOKENIZER}: {directory.name} has {vocabulary_size} ids,"
            f" but config.json's vocab_size is {rows}",
            field=TOKENIZER,
            reason="TOO_LARGE",
            limit=str(rows),
        )


def to_tiktoken(tokenizer: Tokenizer, spec: Mapping[str, Any], name: str) -> tiktoken.Encoding:
    """Return the encoding of a compatible tokenizer. `spec` is its tokenizer.json.

    The encoding has the bytes of each token with the id as rank, and the splitting pattern.

    Raises:
        ValueError: the tokenizer is incompatible; the message names the field.
    """
    import tiktoken  # as in published.py

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
    # tiktoken merges the pair whose *bytes* have the lowest id; tokenizers merges the pair listed
    # first in the merges. Both agree only if ids rise with the merges and the bytes of each token
    # encode to that token. Our training guarantees this.
    vocab: Mapping[str, int] = model["vocab"]
    made = [vocab[left + right] for left, right in model["merges"]]
    if made != sorted(set(made)):
        return "model.merges: ids are not in the order of the merges"
    if not bytes_by_letter().keys() <= vocab.keys():
        return "model.vocab: a byte is missing"
    for token in vocab.keys() - _control_tokens(spec).keys():
        if [found.value for found in tokenizer.model.tokenize(token)] != [token]:
            return f"model.vocab: {token!r} is not reachable by the merges"
    return ""


def _control_tokens(spec: Mapping[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in spec["added_tokens"]}
