"""HTML page with the tokens of a text and a comparison of tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.recipes.tokenizer.chips import Chip, chips
from training.recipes.tokenizer.comparison import COLUMNS, Figures, rows
from training.reporting import pages
from training.tokenization.text_tokenizer import TextTokenizer

TEMPLATE = "tokenizers.html.jinja"
MAX_CHARACTERS = 10_000  # every token is an element; more make browsers slow


@dataclass(frozen=True)
class SampleText:
    """The displayed text. `whole` is False for a truncated text."""

    text: str
    source: str
    whole: bool


@dataclass(frozen=True)
class TokenizedText:
    """The tokens of one tokenizer for the displayed text."""

    name: str
    vocabulary: int
    chips: Sequence[Chip]
    unknowns: int
    bytes_per_token: float


def write_page(
    path: Path,
    shown: SampleText,
    tokenizers: Sequence[TextTokenizer],
    measured: Sequence[Figures] = (),
) -> None:
    """Write the page: the comparison table, if any, followed by the tokens per tokenizer.

    Raises:
        ValueError: the path is a folder.
    """
    facts = {
        "shown": shown,
        "size": len(shown.text.encode()),
        "splittings": [_split(tokenizer, shown.text) for tokenizer in tokenizers],
        "head": COLUMNS,
        "rows": rows(measured),
        "held_out": measured[0] if measured else None,
    }
    pages.write_page(path, TEMPLATE, facts)


def _split(tokenizer: TextTokenizer, text: str) -> TokenizedText:
    pieces = tokenizer.pieces(text)
    unknowns = sum(not piece.known for piece in pieces)
    size = len(text.encode()) / max(1, len(pieces))
    return TokenizedText(tokenizer.name, tokenizer.vocabulary_size, chips(pieces), unknowns, size)
