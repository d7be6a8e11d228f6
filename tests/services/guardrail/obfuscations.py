"""Obfuscations of a text, each a function from plain to obfuscated text."""

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


def _by_code(text: str, first: int) -> str:
    """Return a text with the letters that follow each other from a code point on."""
    return "".join(chr(first + ord(c) - 97) if "a" <= c <= "z" else c for c in text.lower())


def _divided(word: str, division: str) -> str:
    return word[:2] + division + word[2:] if len(word) > 3 else word


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
    # Finding N-05.
    "letters in filled squares": lambda text: _by_code(text, 0x1F170),
    "letters in filled circles": lambda text: _by_code(text, 0x1F150),
    "regional indicators": lambda text: _by_code(text, 0x1F1E6),
    "skin tones": lambda text: "".join(f"{letter}\U0001f3fb" for letter in text),
    "emoji": lambda text: "".join(f"{letter}\U0001f600" for letter in text),
    "emoji after letters": lambda text: "".join(
        f"{letter}\U0001f600" if letter.isalpha() else letter for letter in text
    ),
    "dots after all characters": lambda text: "".join(f"{letter}." for letter in text),
    "hyphens after all characters": lambda text: "".join(f"{letter}-" for letter in text),
    "bars after all characters": lambda text: "".join(f"{letter}|" for letter in text),
    "slashes after all characters": lambda text: "".join(f"{letter}/" for letter in text),
    "slashes after letters": lambda text: "".join(
        f"{letter}/" if letter.isalpha() else letter for letter in text
    ),
    "line breaks within words": lambda text: _each_word(text, lambda word: _divided(word, "\n")),
    "tags within words": lambda text: _each_word(text, lambda word: _divided(word, "<b></b>")),
    "comments within words": lambda text: _each_word(text, lambda word: _divided(word, "<!-- -->")),
    "percent escapes": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "Unicode escapes": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "stretched vowels": lambda text: _each_word(text, _stretched),
}
