"""Feedback on versions, as counts by user, for the tests of a canary.

Users are counted by the majority of their current thumbs. Each rate is given by sums over the
users, which suffice for a mean with an error that respects users with many answers. Answers of a
pinned version are not counted, because they express no preference between arms.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import ColumnElement, Connection, Engine, Table, and_, case, func, select, true

from services.contracts.chat import Arm
from services.feedback.projections.thumbs import UserCount, begun_since
from services.feedback.store import tables
from services.feedback.store.database import transaction


@dataclass(frozen=True)
class RateSums:
    """Sums over users of a rate: user u has n trials, of which x were events.

    Attributes:
        users: Users with trials.
        trials: Sum of n.
        events: Sum of x.
        trials_squared: Sum of n².
        events_squared: Sum of x².
        events_times_trials: Sum of x·n.
    """

    name: str
    users: int
    trials: int
    events: int
    trials_squared: int
    events_squared: int
    events_times_trials: int


@dataclass(frozen=True)
class VersionFeedback:
    """Counts of one version; `rates` contains only rates with trials."""

    model_version: str
    users_up: int
    users_down: int
    rates: tuple[RateSums, ...]


@dataclass(frozen=True)
class Rate:
    """Rate of a table: which rows are trials, and which of these are events."""

    trial: ColumnElement[bool]
    event: ColumnElement[bool]


ANSWER_RATES: Mapping[str, Rate] = {"refused": Rate(true(), tables.answers.c.refused)}
# A row without a thumb stays after a retraction.
THUMB_RATES: Mapping[str, Rate] = {"retracted": Rate(true(), tables.thumbs.c.up.is_(None))}


class UserCounter(Protocol):
    """Source of user counts."""

    async def count_users_by_version(
        self, versions: Sequence[str], since_us: int
    ) -> dict[str, UserCount]:
        """Return the users of each version by the majority of their current thumbs.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class VersionFeedbacks:
    """Reader of counts by version."""

    def __init__(self, engine: Engine, thumbs: UserCounter) -> None:
        self._engine, self._thumbs = engine, thumbs

    async def of_versions(
        self, versions: Sequence[str], since_us: int = 0
    ) -> list[VersionFeedback]:
        """Return the counts of each version, in the order of `versions`.

        Only answers count that were begun at or after a time. The rates contain committed events
        only, seconds later than the thumbs.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        users = await self._thumbs.count_users_by_version(versions, since_us)
        rates = await asyncio.to_thread(self._rates, versions, since_us)
        found = []
        for version in versions:
            count = users.get(version, UserCount())
            found.append(VersionFeedback(version, count.up, count.down, tuple(rates[version])))
        return found

    def _rates(self, versions: Sequence[str], since_us: int) -> defaultdict[str, list[RateSums]]:
        answers, thumbs = tables.answers, tables.thumbs
        found: defaultdict[str, list[RateSums]] = defaultdict(list)
        with transaction(self._engine) as connection:
            for table, since, rates in (
                (answers, answers.c.begin_us >= since_us, ANSWER_RATES),
                (thumbs, begun_since(since_us), THUMB_RATES),
            ):
                counted = and_(
                    table.c.model_version.in_(versions), table.c.arm != Arm.PINNED, since
                )
                for version, sums in _sums(connection, table, counted, rates):
                    found[version].append(sums)
        return found


def _sums(
    connection: Connection, table: Table, counted: ColumnElement[bool], rates: Mapping[str, Rate]
) -> list[tuple[str, RateSums]]:
    """Return the sums of each version and rate of a table with trials."""
    counts = []
    for name, rate in rates.items():
        trials, events = case((rate.trial, 1), else_=0), and_(rate.trial, rate.event)
        counts.append(func.sum(trials).label(f"{name}_n"))
        counts.append(func.sum(case((events, 1), else_=0)).label(f"{name}_x"))
    by_user = (
        select(table.c.model_version, *counts)
        .where(counted)
        .group_by(table.c.principal, table.c.model_version)
        .subquery()
    ).c
    found = []
    for name in rates:
        n, x = by_user[f"{name}_n"], by_user[f"{name}_x"]
        sums = [func.count(), *map(func.sum, (n, x, n * n, x * x, x * n))]
        query = select(by_user.model_version, *sums).where(n > 0).group_by(by_user.model_version)
        for version, *numbers in connection.execute(query.order_by(by_user.model_version)):
            # Postgres sums 64-bit integers as exact decimals.
            found.append((version, RateSums(name, *map(int, numbers))))
    return found
