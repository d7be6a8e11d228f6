"""Generators of reasoning-gym that may be asked: a closed list.

Left out on purpose: those whose scorer runs the answer as Python (n_queens, spiral_matrix,
binary_matrix, string_insertion by eval; countdown, puzzle24, integrals and polynomials by sympy's
parse_expr, which evals): a policy would learn to run code in the trainer. And gsm_symbolic, which
is made from GSM8K's test questions: they are for evaluation only.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Protocol

from training.errors import ConfigError

GENERATORS = (
    "base_conversion", "basic_arithmetic", "binary_alternation", "caesar_cipher", "calendar_arithmetic", "chain_sum",
    "coin_flip", "count_bits", "count_primes", "decimal_chain_sum", "family_relationships", "fraction_simplification",
    "gcd", "isomorphic_strings", "lcm", "leg_counting", "letter_counting", "needle_haystack",
    "prime_factorization", "products", "ransom_note", "simple_equations", "spell_backward", "string_manipulation",
    "syllogism", "time_intervals", "word_sorting",
)  # fmt: skip
# Where answers are numbers they are compared as such: generators compare texts, and to them 6.0 is
# not 6.
NUMERIC = frozenset({
    "basic_arithmetic", "chain_sum", "count_bits", "count_primes", "decimal_chain_sum", "gcd", "lcm", "leg_counting",
    "letter_counting", "products", "simple_equations", "binary_alternation",
})  # fmt: skip


class Generator(Protocol):
    """As much of a reasoning-gym data set as is used."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Its question, answer and metadata."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """0 to 1."""


@functools.cache
def library() -> ModuleType:
    """reasoning-gym's factory; importing it takes seconds."""
    # Its knights and zebras import this solver, which has no wheel, and use it only when asked to
    # pose a zebra puzzle.
    absent = "pycosat" not in sys.modules
    if absent:
        sys.modules["pycosat"] = ModuleType("pycosat")
    try:
        with warnings.catch_warnings():
            # Of package bfi, when it is compiled for the first time: an invalid escape in a
            # docstring.
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
def opened(name: str) -> Generator:
    """A generator to score with: scoring looks at the entry alone."""
    return generator(name, size=1, seed=0, level=None)


def generator(name: str, size: int, seed: int, level: int | None) -> Generator:
    """A generator at a level of its curriculum, or at its own defaults.

    Raises:
        ConfigError: the name is not in the list, or it has no such level.
    """
    if name not in GENERATORS:
        raise ConfigError(
            f"{name}: not among the generators that may be asked",
            field="generator",
            reason="UNKNOWN",
            limit=", ".join(GENERATORS),
        )
    factory = library()
    settings: dict[str, Any] = {"size": size, "seed": seed}
    if level is not None:
        settings = {**_at_level(factory, name, level), **settings}
    try:
        made: Generator = factory.create_dataset(name, **settings)
    except AssertionError as error:
        raise ConfigError(
            f"level: {name} cannot do {level}: {error}", field="level", reason="UNSUPPORTED"
        ) from error
    return made


def entries(name: str, size: int, seed: int, level: int | None) -> Iterator[tuple[str, str, str]]:
    """Question, answer, and the whole entry as JSON."""
    made = generator(name, size, seed, level)
    for index in range(size):
        entry = made[index]
        yield entry["question"], entry["answer"], json.dumps(entry)


def _at_level(factory: ModuleType, name: str, level: int) -> Mapping[str, Any]:
    curriculum = factory.create_curriculum(name)
    for attribute, described in curriculum.attributes.items():
        if not 0 <= level < len(described.levels):
            continue  # this side of the difficulty has no more to give
        curriculum.set_attr_level(attribute, level)
    if not any(0 <= level < len(described.levels) for described in curriculum.attributes.values()):
        raise ConfigError(
            f"level: {name} has none of number {level}", field="level", reason="OUT_OF_RANGE"
        )
    return dict(vars(curriculum.generate_configuration()))
