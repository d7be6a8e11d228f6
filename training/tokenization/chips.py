"""A token as the page draws it: text where it can be read as such, a mark where it cannot be seen
or is no character by itself.

Nothing is guessed: bytes that are no UTF-8 on their own are shown as bytes, with the character that
they are a part of on hover.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from training.tokenization.opened import Piece

COLOURS = 6  # classes c0 to c5 of the template
MOST_TITLE_BYTES = 32
LINE_END, TAB, NOTHING = "⏎", "→", "∅"
DOTTED_CIRCLE = "◌"  # carries a combining character that has nothing to stand on
# What has no form of its own, turns the line around, or is another space than the usual one.
UNSEEN = frozenset({"Cc", "Cf", "Co", "Zl", "Zp", "Zs"})
JOINERS = "\u200c\u200d"  # zero width; inside a token they make letters and emoji what they are


@dataclass(frozen=True)
class Part:
    """A run of text, or a mark that stands for something unseen."""

    text: str
    is_mark: bool = False


@dataclass(frozen=True)
class Chip:
    """One coloured token. `title` shows on hover: id, bytes, and what they are."""

    parts: tuple[Part, ...]
    title: str
    style: str


def chips(pieces: Sequence[Piece]) -> list[Chip]:
    """In the order in which a model reads them."""
    whole = b"".join(piece.content for piece in pieces)
    ends = accumulate(len(piece.content) for piece in pieces)
    return [
        _chip(number, piece, whole, end)
        for number, (piece, end) in enumerate(zip(pieces, ends, strict=True))
    ]


def _chip(number: int, piece: Piece, whole: bytes, end: int) -> Chip:
    style = f"c{number % COLOURS}" if piece.known else "unknown"
    shown = piece.content[:MOST_TITLE_BYTES].hex(" ").upper() + (
        " …" if len(piece.content) > MOST_TITLE_BYTES else ""
    )
    count = len(piece.content)
    title = f"id {piece.id}{'' if piece.known else ' (unknown)'}, {count} byte{'' if count == 1 else 's'}: {shown}"
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
        f"{title}, {names}" if names and len(text) <= MOST_TITLE_BYTES else title,
        style,
    )


def _parts(text: str) -> Iterator[Part]:
    """Runs of what can be seen, and marks. A line end is a mark and then really ends the line."""
    if not text:
        yield Part(NOTHING, is_mark=True)
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
        or unicodedata.category(letter) not in UNSEEN
        or (inside and letter in JOINERS)
    )


def _characters_around(whole: bytes, start: int, end: int) -> str:
    """The characters of the text that bytes start to end belong to, each with its code point."""
    while start > 0 and whole[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(whole) and whole[end] & 0xC0 == 0x80:
        end += 1
    return ", ".join(
        f"{letter} {_code_point(letter)}" for letter in whole[start:end].decode(errors="replace")
    )


def _code_point(letter: str) -> str:
    return f"U+{ord(letter):04X}"
