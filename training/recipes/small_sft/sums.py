"""Sums and capitals, generated here and therefore free to use for training."""

import random
from collections.abc import Callable

from training.recipes.small_sft.example import Example

SUMS, CAPITALS_SOURCE = "sums", "capitals"

_ASK_SUM = ("What is {}?", "{}", "{} = ?", "Calculate {}.", "How much is {}?", "what's {}")
_SPOKEN = {"+": " plus ", "-": " minus ", "×": " times "}
_ASK_CAPITAL = (
    "What is the capital of {}?",
    "capital of {}",
    "Which city is the capital of {}?",
    "What's the capital of {}?",
)

CAPITALS = {
    "Germany": "Berlin", "Spain": "Madrid", "Portugal": "Lisbon", "Austria": "Vienna",
    "Greece": "Athens", "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Ireland": "Dublin", "Belgium": "Brussels",
    "the Netherlands": "Amsterdam", "Hungary": "Budapest", "the Czech Republic": "Prague",
    "Russia": "Moscow", "Ukraine": "Kyiv", "Turkey": "Ankara", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Morocco": "Rabat", "Canada": "Ottawa",
    "the United States": "Washington, D.C.", "Mexico": "Mexico City", "Cuba": "Havana",
    "Brazil": "Brasília", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima",
    "Colombia": "Bogotá", "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "South Korea": "Seoul", "Indonesia": "Jakarta", "Iran": "Tehran",
    "Iraq": "Baghdad", "Australia": "Canberra", "New Zealand": "Wellington", "Nepal": "Kathmandu",
    "Pakistan": "Islamabad", "Switzerland": "Bern", "Romania": "Bucharest",
    "Iceland": "Reykjavik", "the United Kingdom": "London",
}  # fmt: skip


def make_sums(count: int, rng: random.Random) -> list[Example]:
    """Return distinct sums: addition and subtraction below 100, products up to 12 × 12."""
    drawn: dict[str, int] = {}
    while len(drawn) < count:
        text, value = rng.choice(_DRAWS)(rng)
        drawn[text] = value
    return [_sum_example(text, value, rng) for text, value in drawn.items()]


def make_capitals(rng: random.Random) -> list[Example]:
    """Return one question per country; France is held out for the evaluation."""
    return [
        Example(
            (rng.choice(_ASK_CAPITAL).format(country),),
            f"The capital of {country} is {city.rstrip('.')}.",
            CAPITALS_SOURCE,
        )
        for country, city in CAPITALS.items()
    ]


def _add(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randint(1, 60), rng.randint(1, 40)
    return f"{a} + {b}", a + b


def _subtract(rng: random.Random) -> tuple[str, int]:
    a, b = sorted((rng.randint(1, 60), rng.randint(1, 60)), reverse=True)
    return f"{a} - {b}", a - b


def _multiply(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return f"{a} × {b}", a * b


_DRAWS: tuple[Callable[[random.Random], tuple[str, int]], ...] = (_add, _subtract, _multiply)


def _sum_example(text: str, value: int, rng: random.Random) -> Example:
    asked = text.replace("×", rng.choice(("x", "*", "×")))
    if rng.random() < 0.3:
        sign = next(sign for sign in _SPOKEN if sign in text)
        asked = text.replace(f" {sign} ", _SPOKEN[sign])
    return Example((rng.choice(_ASK_SUM).format(asked),), f"{text} = {value}.", SUMS)
