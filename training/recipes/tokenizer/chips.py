"""Display of tokens on the HTML page: text if readable, otherwise a mark.

Incomplete UTF-8 sequences are shown as bytes, with the surrounding character in the title.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from training.tokenization.text_tokenizer import Piece

COLOURS = 6  # classes c0 to c5 of the template
MAX_TITLE_BYTES = 32
LINE_END, TAB, EMPTY_MARK = "⏎", "→", "∅"
DOTTED_CIRCLE = "◌"  # base for a combining character at the start of a token
# Unicode categories without a glyph, with an effect on text direction, or of unusual spaces.
INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Zl", "Zp", "Zs"})
JOINERS = "\u200c\u200d"  # zero width; inside a token they shape letters and emoji


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


def chips(pieces: Sequence[Piece]) -> list[Chip]:
    """Return the chips in token order."""
    whole = b"".join(piece.content for piece in pieces)
    ends = accumulate(len(piece.content) for piece in pieces)
    return [
        _chip(number, piece, whole, end)
        for number, (piece, end) in enumerate(zip(pieces, ends, strict=True))
    ]


def _chip(number: int, piece: Piece, whole: bytes, end: int) -> Chip:
    style = f"c{number % COLOURS}" if piece.known else "unknown"
    shown = piece.content[:MAX_TITLE_BYTES].hex(" ").upper() + (
        " …" if len(piece.content) > MAX_TITLE_BYTES else ""
    )
    count = len(piece.content)
    known, plural = "" if piece.known else " (unknown)", "" if count == 1 else "s"
    title = f"id {piece.id}{known}, {count} byte{plural}: {shown}"
    try:
        text = piece.content.decode()
    except UnicodeDecodeError:
        around = _characters_around(whole, end - count, end)
        return Chip(
            (Part(piece.content.hex(" ").upper(), is_mark=True),),
            f"{title}, part of {around}",
            f"{style} part",
        )
    names = ", ".join(
        _code_point(letter) for letter in text if not letter.isascii() or not letter.isprintable()
    )
    return Chip(
        tuple(_parts(text)),
        f"{title}, {names}" if names and len(text) <= MAX_TITLE_BYTES else title,
        style,
    )


def _parts(text: str) -> Iterator[Part]:
    """Yield runs of visible text and marks; a line end gives a mark and the line end itself."""
    if not text:
        yield Part(EMPTY_MARK, is_mark=True)
    if unicodedata.category(text[:1] or " ").startswith("M"):
        yield Part(DOTTED_CIRCLE, is_mark=True)
    run = ""
    for place, letter in enumerate(text):
        if _is_seen(letter, inside=0 < place < len(text) - 1):
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


def _is_seen(letter: str, inside: bool) -> bool:
    return (
        letter == " "
        or unicodedata.category(letter) not in INVISIBLE_CATEGORIES
        or (inside and letter in JOINERS)
    )


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
