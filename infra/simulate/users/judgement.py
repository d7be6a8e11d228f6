"""Comparison of two versions on held-out questions by the preference of the simulated users."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.simulate.users.client import CallFailedError
from infra.simulate.users.population import Chat
from infra.simulate.users.preference import Preference
from infra.simulate.users.questions import Question

RESAMPLES = 2000
QUANTILE = 0.025
# Above this share of failed questions the comparison fails.
MAX_UNANSWERED_SHARE = 0.05


@dataclass(frozen=True)
class Sample:
    """First answers of both versions to a question, for display."""

    question: str
    before: str
    after: str


@dataclass(frozen=True)
class WinRate:
    """Share of comparisons won; a tie counts half.

    `low` and `high` are the limits of a 95 % interval, bootstrapped over questions.
    """

    rate: float
    low: float
    high: float
    questions: int
    comparisons: int
    samples: tuple[Sample, ...] = ()

    def text(self) -> str:
        interval = f"{self.low:.1%} to {self.high:.1%}"
        return f"{self.rate:.1%} ({interval}) on {self.questions} held-out questions"


@dataclass(frozen=True)
class Comparison:
    """Comparison of two served versions, selected by pinning.

    Each version answers every question `samples` times.
    """

    before: str
    after: str
    samples: int
    concurrency: int


async def judge(
    client: Chat,
    key: str,
    questions: Sequence[Question],
    preference: Preference,
    comparison: Comparison,
    watch: Callable[[int, int], None],
) -> WinRate:
    """Ask both versions all questions and compare their answers pairwise.

    Questions with a failed call are omitted.

    Raises:
        CallFailedError: too many calls failed.
    """
    room, done = asyncio.Semaphore(comparison.concurrency), 0
    total = 2 * comparison.samples * len(questions)
    failed: list[CallFailedError] = []

    async def answers(question: Question, version: str) -> list[str]:
        nonlocal done
        found = []
        for _ in range(comparison.samples):
            async with room:
                if len(failed) > MAX_UNANSWERED_SHARE * len(questions):
                    raise failed[-1]
                found.append((await client.ask(key, question.text, model=version)).text)
            done += 1
            watch(done, total)
        return found

    async def pair(question: Question) -> tuple[Question, list[str], list[str]] | None:
        try:
            return (
                question,
                await answers(question, comparison.before),
                await answers(question, comparison.after),
            )
        except CallFailedError as error:
            failed.append(error)
            return None

    pairs = [found for found in await asyncio.gather(*map(pair, questions)) if found]
    if len(failed) > MAX_UNANSWERED_SHARE * len(questions):
        raise failed[0]
    wins = []
    for question, before, after in pairs:
        old_scores = [preference(question, text) for text in before]
        new_scores = [preference(question, text) for text in after]
        scores = zip(old_scores, new_scores, strict=True)
        wins.append([0.5 if old == new else float(new > old) for old, new in scores])
    return win_rate(
        wins, tuple(Sample(question.text, old[0], new[0]) for question, old, new in pairs)
    )


def win_rate(wins: Sequence[Sequence[float]], samples: tuple[Sample, ...] = ()) -> WinRate:
    """Return the mean over questions of the mean of their comparisons.

    The bootstrap interval uses percentiles and a fixed seed.
    """
    means = [sum(row) / len(row) for row in wins]
    # Questions are resampled, because samples of a question are correlated.
    rng = random.Random(0)
    draws = sorted(sum(rng.choices(means, k=len(means))) / len(means) for _ in range(RESAMPLES))
    low, high = draws[int(QUANTILE * RESAMPLES)], draws[int((1 - QUANTILE) * RESAMPLES) - 1]
    return WinRate(sum(means) / len(means), low, high, len(means), sum(map(len, wins)), samples)
