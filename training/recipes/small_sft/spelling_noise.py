"""Misspelt copies of questions, for robustness against typing errors."""

import random

_MIN_WORD = 4  # a typing error in a shorter word often gives another word


def misspell(text: str, rng: random.Random) -> str:
    """Return the text in lower case without closing punctuation and with typing errors.

    About a quarter of the longer words have two letters swapped, a letter missing or a letter
    doubled.
    """
    return " ".join(
        _damage(word, rng) if rng.random() < 0.25 else word
        for word in text.lower().rstrip("?.!").split()
    )


def _damage(word: str, rng: random.Random) -> str:
    if len(word) < _MIN_WORD or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    damaged = {
        "swap": word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        "loss": word[:at] + word[at + 1 :],
        "doubling": word[: at + 1] + word[at:],
    }
    return damaged[rng.choice(sorted(damaged))]
