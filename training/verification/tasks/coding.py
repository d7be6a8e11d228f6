"""Generated coding tasks: a chain of steps over a list of whole numbers, described in words.

The tasks are original, so training may use them; MBPP and HumanEval stay reserved for evaluation.
Expected values are computed from the steps, never taken from a model's text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from training.data.seeds import seed_of
from training.errors import ConfigError
from training.verification.checks import Calls, Check, Programs

CASES = 8
MIN_DIFFERENT = 3  # minimum number of different expected values
LEVELS = 3  # maximum number of steps
MAX_LIST_LENGTH, MAX_NUMBER = 8, 20


@dataclass(frozen=True)
class Step:
    """A step over the list, as words and as a function."""

    words: str
    apply: Callable[[list[int]], list[int]]


@dataclass(frozen=True)
class Reduction:
    """The final reduction of the list, also defined for an empty one."""

    words: str
    apply: Callable[[list[int]], int]


def draw_step(rng: random.Random) -> Step:
    """Draw a step with a random number, for a variety that prevents memorisation."""
    k = rng.randint(2, 9)
    return rng.choice(
        (
            Step(f"keep only the numbers greater than {k}", lambda xs: [x for x in xs if x > k]),
            Step(f"keep only the numbers less than {k}", lambda xs: [x for x in xs if x < k]),
            Step(
                f"keep only the numbers divisible by {k}", lambda xs: [x for x in xs if x % k == 0]
            ),
            Step(f"drop the numbers divisible by {k}", lambda xs: [x for x in xs if x % k]),
            Step(f"add {k} to every number", lambda xs: [x + k for x in xs]),
            Step(f"multiply every number by {k}", lambda xs: [x * k for x in xs]),
            Step(
                f"replace every number by its absolute difference from {k}",
                lambda xs: [abs(x - k) for x in xs],
            ),
            Step(f"keep only the first {k} numbers", lambda xs: xs[:k]),
            Step(f"drop the first {k} numbers", lambda xs: xs[k:]),
            Step(
                f"replace every number greater than {k} by {k}", lambda xs: [min(x, k) for x in xs]
            ),
        )
    )


REDUCTIONS = (
    Reduction("the sum of the numbers (0 if there are none)", sum),
    Reduction("the largest number (0 if there are none)", lambda xs: max(xs, default=0)),
    Reduction("the smallest number (0 if there are none)", lambda xs: min(xs, default=0)),
    Reduction("how many numbers there are", len),
    Reduction("how many different numbers there are", lambda xs: len(set(xs))),
    Reduction(
        "the largest number minus the smallest (0 if there are none)",
        lambda xs: max(xs) - min(xs) if xs else 0,
    ),
    Reduction("the sum of the squares of the numbers", lambda xs: sum(x * x for x in xs)),
)


def functions(size: int, seed: int, level: int) -> Iterator[tuple[str, Check]]:
    """Yield prompts for a Python function with the expected calls.

    Fewer than `size` result, because trivial problems are skipped.
    """
    for index in range(size):
        words, solve, rng = _problem("functions", seed, level, index)
        prompt = (
            "Write a Python function `solve(numbers)` that takes a list of whole numbers."
            f" {words}, and return the result."
        )
        lists = _lists(rng)
        if not _has_variety(solve(xs) for xs in lists):
            continue
        calls = Calls(
            "solve",
            tuple(json.dumps([xs]) for xs in lists),
            tuple(json.dumps(solve(xs)) for xs in lists),
        )
        yield f"{prompt} Answer with the code only.", calls


def programs(size: int, seed: int, level: int) -> Iterator[tuple[str, Check]]:
    """Yield prompts for a Python program with inputs and outputs; fewer as in `functions`."""
    for index in range(size):
        words, solve, rng = _problem("programs", seed, level, index)
        prompt = (
            "Write a Python program that reads one line of whole numbers separated by spaces."
            f" {words}, and print the result."
        )
        lists = [xs for xs in _lists(rng) if xs]
        if not _has_variety(solve(xs) for xs in lists):
            continue
        inputs = tuple(" ".join(map(str, xs)) + "\n" for xs in lists)
        yield (
            f"{prompt} Answer with the code only.",
            Programs(inputs, tuple(f"{solve(xs)}\n" for xs in lists)),
        )


def _has_variety(expected: Iterable[int]) -> bool:
    """Return True if a constant would not pass; steps may empty every list."""
    return len(set(expected)) >= MIN_DIFFERENT


def _problem(
    kind: str, seed: int, level: int, index: int
) -> tuple[str, Callable[[list[int]], int], random.Random]:
    if not 0 <= level < LEVELS:
        raise ConfigError(
            f"level: {level} is not 0 to {LEVELS - 1}",
            field="level",
            reason="OUT_OF_RANGE",
            limit=f"0 to {LEVELS - 1}",
        )
    rng = random.Random(seed_of(seed, kind, level, index))
    steps, reduction = [draw_step(rng) for _ in range(level + 1)], rng.choice(REDUCTIONS)
    words = ", then ".join([*(step.words for step in steps), f"take {reduction.words}"])

    def solve(numbers: list[int]) -> int:
        for step in steps:
            numbers = step.apply(numbers)
        return reduction.apply(numbers)

    return words[0].upper() + words[1:], solve, rng


def _lists(rng: random.Random) -> Sequence[list[int]]:
    """Draw lists, including the empty list and a list of equal numbers."""
    drawn = [
        [rng.randint(-MAX_NUMBER, MAX_NUMBER) for _ in range(rng.randint(1, MAX_LIST_LENGTH))]
        for _ in range(CASES - 2)
    ]
    return [[], [drawn[0][0]] * 3, *drawn]
