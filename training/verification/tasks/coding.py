"""Functions and programs to write, made up here: a chain of steps over a list of whole numbers,
described in words.

Ours from end to end, so they may train; MBPP and HumanEval stay for evaluation. The expected values
come from the steps themselves, never from a text that a model wrote.
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
FEWEST_DIFFERENT = 3  # values among them
LEVELS = 3  # so many steps at most
LONGEST_LIST, LARGEST = 8, 20


@dataclass(frozen=True)
class Step:
    """What it does to the list, in words and in fact."""

    words: str
    apply: Callable[[list[int]], list[int]]


@dataclass(frozen=True)
class Ending:
    """What becomes of the list in the end; of an empty one too."""

    words: str
    apply: Callable[[list[int]], int]


def draw_step(rng: random.Random) -> Step:
    """Each has a number in it, so that there are more of them than could be learned by heart."""
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


ENDINGS = (
    Ending("the sum of the numbers (0 if there are none)", sum),
    Ending("the largest number (0 if there are none)", lambda xs: max(xs, default=0)),
    Ending("the smallest number (0 if there are none)", lambda xs: min(xs, default=0)),
    Ending("how many numbers there are", len),
    Ending("how many different numbers there are", lambda xs: len(set(xs))),
    Ending(
        "the largest number minus the smallest (0 if there are none)",
        lambda xs: max(xs) - min(xs) if xs else 0,
    ),
    Ending("the sum of the squares of the numbers", lambda xs: sum(x * x for x in xs)),
)


def functions(size: int, seed: int, level: int) -> Iterator[tuple[str, Check]]:
    """Prompts for a Python function, and its calls; fewer than size, where a problem turns out too
    easy.
    """
    for index in range(size):
        words, solve, rng = _problem("functions", seed, level, index)
        prompt = f"Write a Python function `solve(numbers)` that takes a list of whole numbers. {words}, and return the result."
        lists = _lists(rng)
        if not _tells_apart(solve(xs) for xs in lists):
            continue
        calls = Calls(
            "solve",
            tuple(json.dumps([xs]) for xs in lists),
            tuple(json.dumps(solve(xs)) for xs in lists),
        )
        yield f"{prompt} Answer with the code only.", calls


def programs(size: int, seed: int, level: int) -> Iterator[tuple[str, Check]]:
    """Prompts for a Python program, and its inputs and outputs; fewer, as above."""
    for index in range(size):
        words, solve, rng = _problem("programs", seed, level, index)
        prompt = f"Write a Python program that reads one line of whole numbers separated by spaces. {words}, and print the result."
        lists = [xs for xs in _lists(rng) if xs]
        if not _tells_apart(solve(xs) for xs in lists):
            continue
        inputs = tuple(" ".join(map(str, xs)) + "\n" for xs in lists)
        yield (
            f"{prompt} Answer with the code only.",
            Programs(inputs, tuple(f"{solve(xs)}\n" for xs in lists)),
        )


def _tells_apart(expected: Iterable[int]) -> bool:
    """Whether a constant, or little more, would not do: steps may leave nothing of any list."""
    return len(set(expected)) >= FEWEST_DIFFERENT


def _problem(
    kind: str, seed: int, level: int, index: int
) -> tuple[str, Callable[[list[int]], int], random.Random]:
    if not 0 <= level < LEVELS:
        raise ConfigError(
            f"level: {level}, there are 0 to {LEVELS - 1}",
            field="level",
            reason="OUT_OF_RANGE",
            limit=f"0 to {LEVELS - 1}",
        )
    rng = random.Random(seed_of(seed, kind, level, index))
    steps, ending = [draw_step(rng) for _ in range(level + 1)], rng.choice(ENDINGS)
    words = ", then ".join([*(step.words for step in steps), f"take {ending.words}"])

    def solve(numbers: list[int]) -> int:
        for step in steps:
            numbers = step.apply(numbers)
        return ending.apply(numbers)

    return words[0].upper() + words[1:], solve, rng


def _lists(rng: random.Random) -> Sequence[list[int]]:
    """The empty list among them, and one with equal numbers."""
    drawn = [
        [rng.randint(-LARGEST, LARGEST) for _ in range(rng.randint(1, LONGEST_LIST))]
        for _ in range(CASES - 2)
    ]
    return [[], [drawn[0][0]] * 3, *drawn]
