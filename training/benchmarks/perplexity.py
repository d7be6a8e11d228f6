"""Perplexity, nats per token and bits per byte of a model on texts.

Every token of a text counts once. The first token has the start token of the tokenizer as context
(the end token if there is none), as in lm-eval's rolling log-likelihood. A text longer than the
window is read in overlapping windows: a token counts in the first window that contains it, so that
its context is the whole text so far or at least `window - stride` tokens.

Bits per byte are independent of the tokenizer and comparable between models with equal windows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from training.artifacts.scores import ItemScore
from training.data.corpus import read_texts_of, text_files
from training.errors import ConfigError
from training.figures import Estimate
from training.serving.connection import EndpointError
from training.serving.endpoint import Endpoint

MAX_BYTES = 64 << 20  # all texts together; a small model reads some kilobytes a second on a CPU
DEFAULT_WINDOW = 1024  # tokens
BATCH_ROWS = 64  # windows at once
ID_CHARACTERS = 16


class TokenScorer(Protocol):
    """Model with its tokenizer.

    Attributes:
        window_tokens: longest row of `log_probs`.
    """

    window_tokens: int

    def start_id(self) -> int:
        """Return the token in front of a text."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around it."""

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Sequence[float]]:
        """Return the natural log-probs of row[1:] for each row."""


class EndpointScorer:
    """A model behind an OpenAI-compatible endpoint with vLLM's paths for tokens."""

    def __init__(self, endpoint: Endpoint, window_tokens: int) -> None:
        """Use the endpoint.

        Args:
            window_tokens: window of the model; servers reserve one token of it for an answer.
        """
        self._endpoint = endpoint
        self.window_tokens = window_tokens - 1

    def start_id(self) -> int:
        """Return the token in front of a text.

        Raises:
            EndpointError: the server names no special tokens (vLLM: start it with
                --enable-tokenizer-info-endpoint).
        """
        named = self._endpoint.tokenizer_info()
        for name in ("bos_token", "eos_token"):
            token = named.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if text and len(ids := self._endpoint.tokenize(text, add_special_tokens=False)) == 1:
                return ids[0]
        raise EndpointError(
            f"{self._endpoint.base_url}/tokenizer_info names no bos_token or eos_token",
            field="bos_token",
            reason="MISSING",
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around it."""
        return self._endpoint.tokenize(text, add_special_tokens=False)

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Sequence[float]]:
        """Return the natural log-probs of row[1:] for each row."""
        return [scores.log_probs for scores in self._endpoint.log_probs(rows)]


@dataclass(frozen=True)
class Windows:
    """Windows over long texts, in tokens.

    Attributes:
        tokens: length of a window, including the start token.
        stride: distance between the starts of neighbouring windows.
    """

    tokens: int
    stride: int

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a window without context, or a stride that skips tokens.
        """
        for name, value, least, most in (
            ("window", self.tokens, 2, math.inf),
            ("stride", self.stride, 1, self.tokens - 1),
        ):
            if not least <= value <= most:
                limit = f"at least {least}" if most == math.inf else f"{least} to {most}"
                raise ConfigError(
                    f"{name}: {value} tokens is not {limit}",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit=limit,
                )

    def spans(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield start, stop and first counted position of each window over `count` tokens.

        Position 0 is the start token and never counts.
        """
        start, counted = 0, 1
        while counted < count:
            stop = min(start + self.tokens, count)
            yield start, stop, counted
            start, counted = start + self.stride, stop


def choose_windows(scorer: TokenScorer, window: int | None, stride: int | None) -> Windows:
    """Return the windows; by default of 1,024 tokens, or the model's window, with half as stride.

    Raises:
        ConfigError: the window is above that of the model, or as in `Windows`.
    """
    tokens = window or min(DEFAULT_WINDOW, scorer.window_tokens)
    if tokens > scorer.window_tokens:
        raise ConfigError(
            f"window: {tokens} tokens, but the model has {scorer.window_tokens} for a text",
            field="window",
            reason="TOO_LARGE",
            limit=f"at most {scorer.window_tokens}",
        )
    return Windows(tokens, stride or max(1, tokens // 2))


@dataclass(frozen=True)
class Document:
    """A text. `item` is its name: the hash of its content, with a number for repeated texts."""

    item: str
    text: str


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Return the texts of .txt and .jsonl files in order.

    Raises:
        TextError: a file is missing, not UTF-8, malformed, or has an empty text.
        ConfigError: there is no text, or the texts together are too long.
    """
    documents: list[Document] = []
    seen: dict[str, int] = {}
    total = 0
    for file in text_files(paths):
        for text in read_texts_of(file):
            encoded = text.encode()
            total += len(encoded)
            if total > MAX_BYTES:
                raise ConfigError(
                    f"text: more than {MAX_BYTES} bytes up to {file.name}; take a sample",
                    field="text",
                    reason="TOO_LARGE",
                    limit=f"at most {MAX_BYTES} bytes",
                )
            digest = hashlib.sha256(encoded).hexdigest()[:ID_CHARACTERS]
            seen[digest] = seen.get(digest, 0) + 1
            name = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
            documents.append(Document(name, text))
    if not documents:
        raise ConfigError("text: the files have no text", field="text", reason="EMPTY")
    return documents


@dataclass(frozen=True)
class DocumentScore:
    """Surprisal of a text in nats, with its tokens and its bytes in UTF-8."""

    item: str
    nats: float
    tokens: int
    bytes: int

    def as_item(self) -> ItemScore:
        """Return bits per byte, weighted by the bytes."""
        return ItemScore(self.item, self.nats / math.log(2) / self.bytes, float(self.bytes))


@dataclass(frozen=True)
class TextScore:
    """Figures over all texts."""

    documents: Sequence[DocumentScore]

    @property
    def tokens(self) -> int:
        """Number of counted tokens."""
        return sum(one.tokens for one in self.documents)

    @property
    def bytes(self) -> int:
        """Number of bytes in UTF-8."""
        return sum(one.bytes for one in self.documents)

    @property
    def nats_per_token(self) -> Estimate:
        """Mean surprisal of a token, comparable with equal tokenizers only."""
        return ratio([(one.nats, one.tokens) for one in self.documents])

    @property
    def perplexity(self) -> Estimate:
        """Exponential of nats per token; the error is that of its tangent (delta method)."""
        nats = self.nats_per_token
        value = math.exp(nats.value) if nats.value < 700 else math.inf
        return Estimate(value, value * nats.error, nats.count, nats.clusters)

    @property
    def bits_per_byte(self) -> Estimate:
        """Surprisal in bits per byte of UTF-8."""
        return ratio([(one.nats / math.log(2), one.bytes) for one in self.documents])


def ratio(parts: Sequence[tuple[float, int]]) -> Estimate:
    """Return sum(y) / sum(x) with its standard error over the pairs (y, x).

    The error is that of a ratio estimator, by linearization (Cochran 1977, section 6.4); infinite
    for a single pair.
    """
    total = sum(x for _, x in parts)
    value = sum(y for y, _ in parts) / total
    count = len(parts)
    if count < 2:
        return Estimate(value, math.inf, total, count)
    squares = sum((y - value * x) ** 2 for y, x in parts)
    return Estimate(value, math.sqrt(squares * count / (count - 1)) / total, total, count)


def measure(scorer: TokenScorer, documents: Sequence[Document], windows: Windows) -> TextScore:
    """Score all texts.

    Raises:
        ConfigError: a text has no tokens.
        EndpointError, RefusedError: the endpoint gives no log-probs.
    """
    first = scorer.start_id()
    nats, tokens = [0.0] * len(documents), [0] * len(documents)
    rows: list[tuple[int, list[int], int]] = []  # document, tokens, position of the first counted

    def score_rows() -> None:
        found = scorer.log_probs([row for _, row, _ in rows])
        for (place, _, skip), log_probs in zip(rows, found, strict=True):
            counted = log_probs[skip - 1 :]
            nats[place] -= math.fsum(counted)
            tokens[place] += len(counted)
        rows.clear()

    for place, document in enumerate(documents):
        ids = [first, *scorer.encode(document.text)]
        if len(ids) == 1:
            raise ConfigError(f"text: {document.item} has no tokens", field="text", reason="EMPTY")
        for start, stop, counted in windows.spans(len(ids)):
            rows.append((place, ids[start:stop], counted - start))
            if len(rows) == BATCH_ROWS:
                score_rows()
    if rows:
        score_rows()
    return TextScore(
        [
            DocumentScore(document.item, nats[place], tokens[place], len(document.text.encode()))
            for place, document in enumerate(documents)
        ]
    )


def hash_prompts(documents: Sequence[Document], windows: Windows) -> str:
    """Return the hash of everything but the model that decides the figure."""
    described = [[one.item for one in documents], windows.tokens, windows.stride]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
