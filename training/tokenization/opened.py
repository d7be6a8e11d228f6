"""A tokenizer from its directory, ready to encode and to show what each token stands for.

Byte pairs of ours encode through tiktoken, everything else through the library that wrote it
(docs/decisions/2026-11-26-tokenizers.md). Control tokens that a text spells out are text to both:
only a chat template puts real ones between texts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tiktoken
from tokenizers import Tokenizer

from training.errors import DetailedError
from training.model.fields import absent, missing
from training.tokenization.byte_pairs import bytes_by_letter
from training.tokenization.control import TOKENIZER
from training.tokenization.tiktoken_encoding import encoding_of, hindrance

# fancy-regex keeps a state for each character of a run of white space that it may have to give
# back, and panics at a million (measured with tiktoken 0.14). Oniguruma does not. Python's \s holds
# all that theirs does.
LONG_RUN = re.compile(r"\s{500000}")
LONG_RUN_CHARACTERS = 500_000
BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


class TokenizerError(DetailedError, ValueError):
    """A directory has no tokenizer that can be used; the text names the file and the field."""

    reason = "INVALID_TOKENIZER"


@dataclass(frozen=True)
class Piece:
    """One token of a text and the bytes that it stands for. Not known: the id says nothing of the
    bytes.
    """

    id: int
    content: bytes
    known: bool = True


class TextTokenizer(Protocol):
    """What corpus, comparison and page ask of a tokenizer."""

    name: str
    vocabulary_size: int  # the highest id and one: the rows that an embedding needs

    def encode(self, text: str) -> list[int]: ...

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of each, on all cores."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""

    def unknowns(self, ids: Sequence[int]) -> int:
        """How many of them are the unknown token."""

    def pieces(self, text: str) -> list[Piece]:
        """The tokens with their bytes, which together are the text's."""


class LibraryTokenizer:
    """Any tokenizer.json. The tokens' bytes come from the byte alphabet, from byte fallbacks, or
    from their place in the text.
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
        found = zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        return [
            Piece(
                token_id,
                self._content(token_id, token, text[start:end]),
                token_id != self._unknown_id,
            )
            for token_id, token, (start, end) in found
        ]

    def _content(self, token_id: int, token: str, covered: str) -> bytes:
        if self._letters is not None and token_id not in self._added_ids:
            return bytes(self._letters[letter] for letter in token)
        fallback = BYTE_FALLBACK.fullmatch(token)
        return bytes([int(fallback[1], 16)]) if fallback and covered != token else covered.encode()


class BytePairs:
    """Byte pairs of ours: the same ids as the library's, through tiktoken."""

    def __init__(self, library: LibraryTokenizer, encoding: tiktoken.Encoding) -> None:
        self.name = library.name
        self.vocabulary_size = library.vocabulary_size
        self._library, self._encoding = library, encoding

    def encode(self, text: str) -> list[int]:
        return (
            self._library.encode(text)
            if _is_too_long(text)
            else self._encoding.encode_ordinary(text)
        )

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        if any(map(_is_too_long, texts)):
            return [self.encode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(
            list(texts), num_threads=len(os.sched_getaffinity(0))
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode_bytes(ids).decode("utf-8", errors="replace")

    def unknowns(self, ids: Sequence[int]) -> int:
        return 0  # each byte is a token

    def pieces(self, text: str) -> list[Piece]:
        return [
            Piece(token_id, self._encoding.decode_single_token_bytes(token_id))
            for token_id in self.encode(text)
        ]


def open_tokenizer(directory: Path) -> TextTokenizer:
    """The tokenizer of a directory, of a whole model's too.

    Raises:
        TokenizerError: tokenizer.json is missing or is none, or the model beside it has fewer rows
            than the tokenizer has ids.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise TokenizerError(missing(path), field=absent(path), reason="MISSING")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of its own
        raise TokenizerError(
            f"{TOKENIZER}: {directory.name} has none that can be read: {error}",
            field=TOKENIZER,
            reason="MALFORMED",
        ) from error
    spec = json.loads(tokenizer.to_str())
    library = LibraryTokenizer(directory.name, tokenizer, spec)
    _check_rows(directory, library.vocabulary_size)
    if hindrance(tokenizer, spec):
        return library
    return BytePairs(library, encoding_of(tokenizer, spec, directory.name))


def _is_too_long(text: str) -> bool:
    """Whether tiktoken would panic."""
    return len(text) >= LONG_RUN_CHARACTERS and LONG_RUN.search(text) is not None


def _check_rows(directory: Path, vocabulary_size: int) -> None:
    """An id past the embedding is a crash on a CPU and silent nonsense on a GPU."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    rows = config.get("vocab_size") or config.get("text_config", {}).get(
        "vocab_size"
    )  # the second: of a model that sees
    if rows is not None and rows < vocabulary_size:
        raise TokenizerError(
            f"{TOKENIZER}: {directory.name} has {vocabulary_size} ids, but config.json's vocab_size is {rows}",
            field=TOKENIZER,
            reason="TOO_LARGE",
            limit=str(rows),
        )
