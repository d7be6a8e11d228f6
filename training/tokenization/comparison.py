"""How well tokenizers fit a text that they have not learned from: bytes a token, tokens a word,
unknowns, size, what comes back.

More bytes a token is a shorter sequence for the same text; what it costs is rows of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.corpus import TextError
from training.tokenization.control import TOKENIZER
from training.tokenization.opened import TextTokenizer


@dataclass(frozen=True)
class Figures:
    """What one tokenizer made of some texts. A word is what white space parts."""

    name: str
    vocabulary: int
    disk_bytes: int  # of tokenizer.json
    texts: int = 0
    exact_texts: int = 0  # that decode to themselves
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


HEAD = ("tokenizer", "vocabulary", "on disk", "bytes/token", "tokens/word", "unknown", "exact")


def measure(tokenizer: TextTokenizer, directory: Path, texts: Iterable[str]) -> Figures:
    """One pass over the texts.

    Raises:
        TextError: there are none.
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
        raise TextError(
            f"texts: nothing to measure {tokenizer.name} on", field="texts", reason="EMPTY"
        )
    size = (directory / TOKENIZER).stat().st_size
    return Figures(
        tokenizer.name,
        tokenizer.vocabulary_size,
        size,
        count,
        exact,
        text_bytes,
        words,
        tokens,
        unknowns,
    )


def rows(measured: Sequence[Figures]) -> list[tuple[str, ...]]:
    """As people read them, under HEAD."""
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
    """Aligned lines for a terminal: names to the left, figures to the right."""
    lines = [HEAD, *rows(measured)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )
