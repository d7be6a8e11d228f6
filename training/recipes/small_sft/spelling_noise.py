"""Misspelt copies of questions, so that a typo does not derail the model."""

import random

_MIN_WORD = 4  # shorter words become other words


def misspell(text: str, rng: random.Random) -> str:
    """Lower case, no closing punctuation, and about one longer word in four damaged by a swap, a
    loss or a doubling.
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
