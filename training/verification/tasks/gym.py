"""Permitted generators of reasoning-gym, as a closed list.

Excluded are generators whose scorer runs the answer as Python, since a policy would learn to run
code in the trainer: n_queens, spiral_matrix, binary_matrix and string_insertion (eval); countdown,
puzzle24, integrals and polynomials (sympy's parse_expr, based on eval). gsm_symbolic is excluded
because it is derived from GSM8K's test questions, reserved for evaluation.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol

from training.errors import ConfigError

GENERATORS = (
    "base_conversion", "basic_arithmetic", "binary_alternation", "caesar_cipher",
    "calendar_arithmetic", "chain_sum", "coin_flip", "count_bits", "count_primes",
    "decimal_chain_sum", "family_relationships", "fraction_simplification", "gcd",
    "isomorphic_strings", "lcm", "leg_counting", "letter_counting", "needle_haystack",
    "prime_factorization", "products", "ransom_note", "simple_equations", "spell_backward",
    "string_manipulation", "syllogism", "time_intervals", "word_sorting",
)  # fmt: skip
# Numeric answers are compared as numbers: the generators compare texts, where 6.0 differs from 6.
NUMERIC = frozenset({
    "basic_arithmetic", "chain_sum", "count_bits", "count_primes", "decimal_chain_sum", "gcd",
    "lcm", "leg_counting", "letter_counting", "products", "simple_equations", "binary_alternation",
})  # fmt: skip


class Generator(Protocol):
    """Used part of a reasoning-gym data set."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an entry with question, answer and metadata."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Return a score from 0 to 1."""


@functools.cache
def library() -> ModuleType:
    """Import and return reasoning-gym's factory, which takes seconds."""
    # Its logic module imports this solver, which has no wheel and is needed for zebra puzzles only.
    absent = "pycosat" not in sys.modules
    if absent:
        sys.modules["pycosat"] = ModuleType("pycosat")
    try:
        with warnings.catch_warnings():
            # Package bfi has an invalid escape in a docstring, reported on first compilation.
            warnings.filterwarnings(
                "ignore", category=SyntaxWarning, message='invalid escape|"is" with'
            )
            warnings.filterwarnings("ignore", category=DeprecationWarning, message="invalid escape")
            importlib.import_module("reasoning_gym")
            return importlib.import_module("reasoning_gym.factory")
    finally:
        if absent:
            del sys.modules["pycosat"]


@functools.cache
def scoring_generator(name: str) -> Generator:
    """Return a cached generator for scoring, which needs only the entry."""
    return generator(name, size=1, seed=0, level=None)


def generator(name: str, size: int, seed: int, level: int | None) -> Generator:
    """Create a generator at a curriculum level or with its own defaults.

    Raises:
        ConfigError: the name is not listed, or the level does not exist.
    """
    if name not in GENERATORS:
        raise ConfigError(
            f"{name}: not a permitted generator",
            field="generator",
            reason="UNKNOWN",
            limit=", ".join(GENERATORS),
        )
    factory = library()
    settings: dict[str, Any] = {"size": size, "seed": seed}
    if level is not None:
        curriculum = factory.create_curriculum(name)
        attributes = curriculum.attributes.items()
        # Attributes with fewer levels keep their defaults.
        found = [attribute for attribute, its in attributes if 0 <= level < len(its.levels)]
        if not found:
            raise ConfigError(
                f"level: {name} has no level {level}", field="level", reason="OUT_OF_RANGE"
            )
        for attribute in found:
            curriculum.set_attr_level(attribute, level)
        settings = {**vars(curriculum.generate_configuration()), **settings}
    try:
        made: Generator = factory.create_dataset(name, **settings)
    except AssertionError as error:
        raise ConfigError(
            f"level: {name} does not support {level}: {error}", field="level", reason="UNSUPPORTED"
        ) from error
    return made


def entries(name: str, size: int, seed: int, level: int | None) -> Iterator[tuple[str, str, str]]:
    """Yield question, answer, and the whole entry as JSON."""
    made = generator(name, size, seed, level)
    for index in range(size):
        entry = made[index]
        yield entry["question"], entry["answer"], json.dumps(entry)
