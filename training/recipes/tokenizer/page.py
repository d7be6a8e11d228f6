"""HTML page with the tokens of a text and a comparison of tokenizers.

A token is shown as text if readable, otherwise as a mark. Incomplete UTF-8 sequences are shown as
bytes, with the surrounding character in the title.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.reporting import pages
from training.tokenization.comparison import COLUMNS, Figures, rows
from training.tokenization.text_tokenizer import Piece, TextTokenizer

TEMPLATE = "tokenizers.html.jinja"
MAX_CHARACTERS = 10_000  # every token is an element; more make browsers slow
COLOURS = 6  # classes c0 to c5 of the template
MAX_TITLE_BYTES = 32
LINE_END, TAB, EMPTY_MARK = "⏎", "→", "∅"
DOTTED_CIRCLE = "◌"  # base for a combining character at the start of a token
# Unicode categories without a glyph, with an effect on text direction, or of unusual spaces.
INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Zl", "Zp", "Zs"})
JOINERS = "\u200c\u200d"  # zero width; inside a token they shape letters and emoji


@dataclass(frozen=True)
class SampleText:
    """The displayed text. `whole` is False for a truncated text."""

    text: str
    source: str
    whole: bool


@dataclass(frozen=True)
class Part:
    """A run of text, or a mark for an invisible character."""

    text: str
    is_mark: bool = False


@dataclass(frozen=True)
class Chip:
    """One coloured token. `title` is the hover text: id, bytes, and code points."""

    parts: tuple[Part, ...]
    title: str
    style: str


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
    splittings = []
    for tokenizer in tokenizers:
        pieces = tokenizer.pieces(shown.text)
        splittings.append(
            TokenizedText(
                tokenizer.name,
                tokenizer.vocabulary_size,
                chips(pieces),
                unknowns=sum(not piece.known for piece in pieces),
                bytes_per_token=len(shown.text.encode()) / max(1, len(pieces)),
            )
        )
    facts = {
        "shown": shown,
        "size": len(shown.text.encode()),
        "splittings": splittings,
        "head": COLUMNS,
        "rows": rows(measured),
        "held_out": measured[0] if measured else None,
    }
    pages.write_page(path, TEMPLATE, facts)


def chips(pieces: Sequence[Piece]) -> list[Chip]:
    """Return the chips in token order."""
    whole = b"".join(piece.content for piece in pieces)
    made, end = list[Chip](), 0
    for number, piece in enumerate(pieces):
        count = len(piece.content)
        end += count
        style = f"c{number % COLOURS}" if piece.known else "unknown"
        shown = piece.content[:MAX_TITLE_BYTES].hex(" ").upper() + (
            " …" if count > MAX_TITLE_BYTES else ""
        )
        known, plural = "" if piece.known else " (unknown)", "" if count == 1 else "s"
        title = f"id {piece.id}{known}, {count} byte{plural}: {shown}"
        try:
            text = piece.content.decode()
        except UnicodeDecodeError:
            part = Part(piece.content.hex(" ").upper(), is_mark=True)
            around = _characters_around(whole, end - count, end)
            made.append(Chip((part,), f"{title}, part of {around}", f"{style} part"))
            continue
        names = ", ".join(
            _code_point(letter)
            for letter in text
            if not letter.isascii() or not letter.isprintable()
        )
        if names and len(text) <= MAX_TITLE_BYTES:
            title = f"{title}, {names}"
        made.append(Chip(tuple(_parts(text)), title, style))
    return made


def _parts(text: str) -> Iterator[Part]:
    """Yield runs of visible text and marks; a line end gives a mark and the line end itself."""
    if not text:
        yield Part(EMPTY_MARK, is_mark=True)
    if unicodedata.category(text[:1] or " ").startswith("M"):
        yield Part(DOTTED_CIRCLE, is_mark=True)
    run = ""
    for place, letter in enumerate(text):
        is_joining = letter in JOINERS and 0 < place < len(text) - 1
        is_seen = unicodedata.category(letter) not in INVISIBLE_CATEGORIES
        if letter == " " or is_seen or is_joining:
            run += letter
            continue
        if run:
            yield Part(run)
            run = ""
        yield Part({"\n": LINE_END, "\t": TAB}.get(letter, _code_point(letter)), is_mark=True)
        if letter in "\n\t":
            yield Part(letter)
    if run:
        yield Part(run)


def _characters_around(whole: bytes, start: int, end: int) -> str:
    """Return the characters that contain the bytes from start to end, each with its code point."""
    while start > 0 and whole[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(whole) and whole[end] & 0xC0 == 0x80:
        end += 1
    return ", ".join(
        f"{letter} {_code_point(letter)}" for letter in whole[start:end].decode(errors="replace")
    )


def _code_point(letter: str) -> str:
    return f"U+{ord(letter):04X}"
