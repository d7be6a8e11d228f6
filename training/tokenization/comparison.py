"""Comparison of tokenizers on held-out text.

Figures: bytes per token, tokens per word, unknown tokens, size, exact round trips. More bytes per
token shorten the sequence and cost embedding rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import ConfigError
from training.tokenization.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class Figures:
    """Figures of one tokenizer on some texts. Words are separated by white space."""

    name: str
    vocabulary: int
    disk_bytes: int  # size of tokenizer.json or of the rank file
    texts: int = 0
    exact_texts: int = 0  # texts with an exact round trip
    text_bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknowns: int = 0

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / self.tokens

    @property
    def tokens_per_word(self) -> float | None:
        return self.tokens / self.words if self.words else None

    @property
    def unknown_share(self) -> float:
        return self.unknowns / self.tokens

    @property
    def exact_share(self) -> float:
        return self.exact_texts / self.texts


COLUMNS = ("tokenizer", "vocabulary", "on disk", "bytes/token", "tokens/word", "unknown", "exact")


def measure(tokenizer: TextTokenizer, file: Path, texts: Iterable[str]) -> Figures:
    """Measure a tokenizer in one pass over the texts.

    Args:
        file: the file of the tokenizer, for its size.

    Raises:
        ConfigError: there are no texts.
    """
    count = exact = text_bytes = words = tokens = unknowns = 0
    for text in texts:
        ids = tokenizer.encode(text)
        count += 1
        exact += tokenizer.decode(ids) == text
        text_bytes += len(text.encode())
        words += len(text.split())
        tokens += len(ids)
        unknowns += tokenizer.unknowns(ids)
    if tokens == 0:
        raise ConfigError(
            f"texts: nothing to measure {tokenizer.name} on", field="texts", reason="EMPTY"
        )
    return Figures(
        tokenizer.name,
        tokenizer.vocabulary_size,
        file.stat().st_size,
        count,
        exact,
        text_bytes,
        words,
        tokens,
        unknowns,
    )


def total(parts: Sequence[Figures]) -> Figures:
    """Return the figures of one tokenizer on several sets of texts together."""
    return replace(
        parts[0],
        texts=sum(part.texts for part in parts),
        exact_texts=sum(part.exact_texts for part in parts),
        text_bytes=sum(part.text_bytes for part in parts),
        words=sum(part.words for part in parts),
        tokens=sum(part.tokens for part in parts),
        unknowns=sum(part.unknowns for part in parts),
    )


def rows(measured: Sequence[Figures]) -> list[tuple[str, ...]]:
    """Return the formatted figures, in the order of COLUMNS."""
    return [
        (
            one.name,
            f"{one.vocabulary:,}",
            f"{one.disk_bytes / 1000:,.0f} kB",
            f"{one.bytes_per_token:.2f}",
            "–" if one.tokens_per_word is None else f"{one.tokens_per_word:.2f}",
            f"{one.unknown_share:.2%}",
            f"{one.exact_share:.1%}",
        )
        for one in measured
    ]


def table(measured: Sequence[Figures]) -> str:
    """Return aligned lines for a terminal, names on the left and figures on the right."""
    lines = [COLUMNS, *rows(measured)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )


def parse_sizes(text: str) -> list[int]:
    """Return the vocabulary sizes of a command-line argument such as "4096,16384"."""
    try:
        return [int(size) for size in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not a list of sizes such as 4096,16384"
        ) from error
