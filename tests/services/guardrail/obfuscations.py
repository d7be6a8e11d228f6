"""Twelve obfuscations of a text, each a function from plain to obfuscated text."""

import random
from collections.abc import Callable

CYRILLIC = str.maketrans("aeopcxy", "аеорсху")
LEET = str.maketrans("oieast", "013457")
CIRCLED = {ord("a") + number: 0x24D0 + number for number in range(26)}


def _inserted(text: str, mark: str, every: int) -> str:
    return "".join(
        letter + (mark if place % every == 1 else "") for place, letter in enumerate(text)
    )


def _each_word(text: str, change: Callable[[str], str]) -> str:
    return " ".join(change(word) for word in text.split(" "))


def _random_case(text: str) -> str:
    choose = random.Random(text)
    return "".join(letter.upper() if choose.random() < 0.5 else letter for letter in text)


def _stretched(word: str) -> str:
    return word[:1] + word[1] * 3 + word[2:] if len(word) > 3 and word[1] in "aeiou" else word


OBFUSCATIONS: dict[str, Callable[[str], str]] = {
    "zero-width spaces": lambda text: _inserted(text, "\u200b", 2),
    "soft hyphens": lambda text: _inserted(text, "\u00ad", 3),
    "Cyrillic look-alikes": lambda text: text.translate(CYRILLIC),
    "full width": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" for c in text
    ),
    "mathematical bold": lambda text: "".join(
        chr(0x1D41A + ord(c) - 97) if "a" <= c <= "z" else c for c in text.lower()
    ),
    "circled letters": lambda text: text.lower().translate(CIRCLED),
    "combining marks": lambda text: _inserted(text, "\u0336", 2),
    "leetspeak": lambda text: text.translate(LEET),
    "letters apart": lambda text: "   ".join(" ".join(word) for word in text.split(" ")),
    "dots within words": lambda text: _each_word(
        text, lambda word: ".".join(word) if len(word) > 3 else word
    ),
    "random case": _random_case,
    "stretched vowels": lambda text: _each_word(text, _stretched),
}
