"""A page that shows how tokenizers split a text, and how they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.reporting import pages
from training.tokenization.chips import Chip, chips
from training.tokenization.comparison import HEAD, Figures, rows
from training.tokenization.opened import TextTokenizer

TEMPLATE = "tokenizers.html.jinja"
MOST_CHARACTERS = 10_000  # a token is an element: more makes browsers slow


@dataclass(frozen=True)
class Shown:
    """The text that is split. `whole`: it is all of it."""

    text: str
    source: str
    whole: bool


@dataclass(frozen=True)
class Splitting:
    """What one tokenizer made of it."""

    name: str
    vocabulary: int
    chips: Sequence[Chip]
    unknowns: int
    bytes_per_token: float


def write_page(
    path: Path, shown: Shown, tokenizers: Sequence[TextTokenizer], measured: Sequence[Figures] = ()
) -> None:
    """The splittings one under another, the table of a comparison above them if there was one.

    Raises:
        ValueError: the path is a folder.
    """
    facts = {
        "shown": shown,
        "size": len(shown.text.encode()),
        "splittings": [_split(tokenizer, shown.text) for tokenizer in tokenizers],
        "head": HEAD,
        "rows": rows(measured),
        "held_out": measured[0] if measured else None,
    }
    pages.write_page(path, TEMPLATE, facts)


def _split(tokenizer: TextTokenizer, text: str) -> Splitting:
    pieces = tokenizer.pieces(text)
    unknowns = sum(not piece.known for piece in pieces)
    size = len(text.encode()) / max(1, len(pieces))
    return Splitting(tokenizer.name, tokenizer.vocabulary_size, chips(pieces), unknowns, size)
