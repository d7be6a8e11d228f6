"""Leaderboard: ratings of the models by the votes of a tenant.

Ratings are computed in a thread, and kept until the votes change. With many votes a computation
takes seconds; the pause after each is a multiple of its time, so that a stream of votes does not
occupy a processor.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from prometheus_client import Histogram

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import Ratings, fit
from human_evaluation.fragility import Fragility, fragility
from human_evaluation.ranks import neighbours
from services.chassis.threads import BoundedThreads
from services.contracts.chat import Task
from services.contracts.limits import field_error
from services.review.arena.labels import Label, Labels
from services.review.arena.pairing import Pair, PairCount
from services.review.arena.vote_columns import VoteColumns

TOPICS = tuple(task.value for task in Task if task is not Task.UNSPECIFIED)
# With fewer voters the errors by voter are unreliable or infinite; votes then count as independent.
LEAST_CLUSTERS = 5
# Share of the time in which ratings are computed: at most a tenth.
PAUSES = 10.0
MAX_BOARDS = 1_000
# Wait for a new leaderboard before the previous one is returned.
WAIT_SECONDS = 2.0

SECONDS = Histogram(
    "thumbwheel_review_leaderboard_seconds",
    "Time to read the votes and compute a leaderboard.",
    buckets=(0.05, 0.2, 1, 5, 20, 60),
)

Fingerprint = tuple[object, ...]
# Tenant, topic, style.
BoardKey = tuple[str, str, bool]


@dataclass(frozen=True)
class Entry:
    """Row of a model; rank 0 and ratings of 0 without a rating."""

    rank: int
    model: str
    label: Label
    rating: float
    rating_low: float
    rating_high: float
    votes: int
    votes_to_separate: int


@dataclass(frozen=True)
class Leaderboard:
    """Ratings with the counts behind them; `latest_vote_us` is 0 without votes.

    `topics` are the counted votes of each topic with votes, whatever the topic of the ratings.
    """

    entries: tuple[Entry, ...]
    pairs: Mapping[Pair, PairCount]
    fragility: Fragility | None
    votes: int
    set_aside: int
    quarantined: int
    latest_vote_us: int
    topics: Mapping[str, int] = field(default_factory=dict)


class VoteSource(Protocol):
    """Votes in the database; all methods raise UnavailableError without it."""

    async def fingerprint(self, tenant: str) -> Fingerprint:
        """Return a value that changes when votes or accounts of the tenant change."""

    async def columns(self, tenant: str, topic: str) -> VoteColumns:
        """Return the counted votes of a topic, or of all topics if ""."""

    async def topics(self, tenant: str) -> Mapping[str, int]:
        """Return the number of counted votes of each topic with votes, in alphabetical order."""


@dataclass(frozen=True)
class _Kept:
    fingerprint: Fingerprint
    board: Leaderboard
    due: float


class Leaderboards:
    """Domain logic of GetLeaderboard.

    Args:
        source: votes and accounts.
        labels: developer and licence of the models.
        least_seconds: shortest time between two computations of a leaderboard; 0: no pause.
        now_us: present time in microseconds since 1970.
    """

    def __init__(
        self,
        source: VoteSource,
        labels: Labels,
        least_seconds: float,
        now_us: Callable[[], int],
    ) -> None:
        self._source, self._labels = source, labels
        self._least_seconds, self._now_us = least_seconds, now_us
        self._threads = BoundedThreads(1, "leaderboard")
        self._kept: dict[BoardKey, _Kept] = {}
        self._computing: dict[BoardKey, asyncio.Task[Leaderboard]] = {}
        self._lock = asyncio.Lock()

    async def board(self, tenant: str, topic: str, *, style: bool) -> Leaderboard:
        """Return the leaderboard of a tenant.

        Args:
            tenant: tenant of the caller.
            topic: task of the questions, or "" for all.
            style: compare the models at equal length and markup of the answers.

        Raises:
            InvalidArgumentError: the topic is unknown.
            UnavailableError: the database does not answer.
        """
        if topic and topic not in TOPICS:
            raise field_error("topic", f"one of {', '.join(TOPICS)}, or empty")
        key = (tenant, topic, style)
        kept = self._kept.get(key)
        if kept and time.monotonic() < kept.due:
            return kept.board
        computing = self._computing.get(key)
        if computing is None:
            # In a task of its own: a call that ends at its deadline does not stop the computation,
            # which otherwise would never be completed with many votes.
            computing = asyncio.create_task(self._compute(key))
            self._computing[key] = computing
            computing.add_done_callback(lambda done: self._ended(key, done))
        try:
            async with asyncio.timeout(WAIT_SECONDS if kept else None):
                return await asyncio.shield(computing)
        except TimeoutError:
            if kept is None:
                raise
            return kept.board

    async def _compute(self, key: BoardKey) -> Leaderboard:
        tenant, topic, style = key
        kept = self._kept.get(key)
        labels = await self._labels.read()
        # One computation at a time, because each occupies memory for its votes.
        async with self._lock:
            fingerprint = (await self._source.fingerprint(tenant), labels)
            started = time.monotonic()
            if kept and kept.fingerprint == fingerprint:
                board = kept.board
            else:
                columns = await self._source.columns(tenant, topic)
                now = self._now_us()
                board = await self._threads.run(lambda _: rate(columns, labels, now, style=style))
                board = replace(board, topics=await self._source.topics(tenant))
                SECONDS.observe(time.monotonic() - started)
            ended = time.monotonic()
            pause = max(self._least_seconds, PAUSES * (ended - started))
            due = ended + pause if self._least_seconds else ended
            if key not in self._kept and len(self._kept) >= MAX_BOARDS:
                self._kept.clear()
            self._kept[key] = _Kept(fingerprint, board, due)
            return board

    def _ended(self, key: BoardKey, done: "asyncio.Task[Leaderboard]") -> None:
        del self._computing[key]
        # A failure without a waiting call would be reported as never retrieved.
        if not done.cancelled():
            done.exception()


def rate(
    columns: VoteColumns,
    labels: Mapping[str, Label],
    now_us: int,
    *,
    style: bool,
) -> Leaderboard:
    """Return the leaderboard of some votes. Blocking."""
    battles = columns.battles(now_us)
    counted = ~columns.is_quarantined
    voters = len(np.unique(columns.account[counted]))
    # Without any vote there is no feature to remove.
    has_style = style and bool(counted.any())
    ratings = fit(battles, style=has_style, cluster_voters=voters >= LEAST_CLUSTERS)
    return Leaderboard(
        entries=tuple(_entries(ratings, labels)),
        pairs=_pairs(columns, counted),
        fragility=_fragility(battles, style=has_style),
        votes=int(counted.sum()),
        set_aside=columns.set_aside,
        quarantined=int((~counted).sum()),
        latest_vote_us=int(columns.vote_us[counted].max()) if counted.any() else 0,
    )


def _entries(ratings: Ratings, labels: Mapping[str, Label]) -> list[Entry]:
    lacking = {one.upper: one.votes for one in neighbours(ratings)}
    unranked = [place for place in range(len(ratings.models)) if not ratings.ranked[place]]
    found = []
    for place in [*ratings.order, *sorted(unranked, key=lambda place: ratings.models[place])]:
        model, is_ranked = ratings.models[place], bool(ratings.ranked[place])
        values = [float(column[place]) for column in (ratings.rating, ratings.low, ratings.high)]
        rating, low, high = values if is_ranked else (0.0, 0.0, 0.0)
        entry = Entry(
            rank=int(ratings.rank[place]),
            model=model,
            label=labels.get(model, Label()),
            rating=rating,
            rating_low=low,
            rating_high=high,
            votes=int(ratings.votes[place]),
            votes_to_separate=lacking.get(model) or 0,
        )
        found.append(entry)
    return found


def _pairs(columns: VoteColumns, counted: np.ndarray) -> Mapping[Pair, PairCount]:
    """Return the counts of each pair with votes, in the alphabetical order of the names."""
    names = np.array(columns.models, dtype=object)
    totals: dict[Pair, list[int]] = {}
    # Scores 0, 0.5 and 1 as 0, 1 and 2.
    results = np.rint(2 * columns.score[counted]).astype(np.int64)
    keys = (columns.first[counted] * len(names) + columns.second[counted]) * 3 + results
    counts = np.bincount(keys, minlength=3 * len(names) ** 2).reshape(len(names), len(names), 3)
    for first, second, result in np.argwhere(counts):
        count = counts[first, second, result]
        pair = (min(names[first], names[second]), max(names[first], names[second]))
        total = totals.setdefault(pair, [0, 0, 0])
        won = {0: names[second], 2: names[first]}.get(int(result))
        total[2 if won is None else 0 if won == pair[0] else 1] += int(count)
    return {pair: PairCount(*total) for pair, total in sorted(totals.items())}


def _fragility(battles: Battles, *, style: bool) -> Fragility | None:
    """Return the fewest votes that decide the leader, if they are less than half of all."""
    found = fragility(battles, style=style)
    return found if found and math.isfinite(found.share) and found.share < 0.5 else None
