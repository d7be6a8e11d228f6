"""Feedback on versions, as counts by user, for the tests of a canary.

Users are counted by their numbers of current thumbs up and down, and by a weight that follows from
the age of their accounts (account_age.py). Each rate is given by sums over
the users, which suffice for a mean with an error that respects users with many answers. Answers of
a pinned version and of battles are not counted, because they express no preference between arms.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    and_,
    case,
    func,
    not_,
    or_,
    select,
    true,
)

from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.contracts.chat import OUTSIDE_EXPERIMENT
from services.contracts.feedback import SignalKind
from services.feedback.projections.experiments import REFRESH_SECONDS, FigureSource
from services.feedback.projections.thumbs import WeightedCount, begun_since
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError, transaction

log = logging.getLogger(__name__)

# Metrics count the answers of one day, so that a reading takes about as long on any day.
METRICS_DAYS = 1
# Time after which a conversation without a reaction is left; the usual end of a visit in web
# analytics.
LEFT_AFTER_US = 30 * 60 * 1_000_000


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
    users: WeightedCount
    rates: tuple[RateSums, ...]


@dataclass(frozen=True)
class Rate:
    """Rate of a table: which rows are trials, and which of these are events."""

    trial: ColumnElement[bool]
    event: ColumnElement[bool]


# A row without a thumb stays after a retraction.
THUMB_RATES: Mapping[str, Rate] = {"retracted": Rate(true(), tables.thumbs.c.up.is_(None))}


@dataclass(frozen=True)
class CountedRows:
    """Counted rows with their rates.

    Attributes:
        table: Table or query with principal, version and arm of each row.
        source: The table, with the tables joined to it.
        begun: Condition of the rows begun since the start of a comparison.
        rates: Rates by name.
    """

    table: FromClause
    source: FromClause
    begun: ColumnElement[bool]
    rates: Mapping[str, Rate]


def answers_since(since_us: int, now_us: int, training_default: bool) -> CountedRows:
    """Return the answers begun since a time.

    An answer is left if the user did not react to it in time: no later answer in the conversation,
    no thumb, no copy. Trials are answers after an earlier one, because each answer of a client that
    keeps its conversations itself has a conversation of its own. An answer is a trial when its time
    has passed, and later reactions change nothing, so that a test may look at any time.

    Args:
        since_us: Start of the comparison.
        now_us: Time of the reading.
        training_default: Consent of users without a choice. Implicit signals count only with the
            user's consent, at the time of the answer (then the answer has a parent) and now.
    """
    table = tables.answers.c
    conversation = (table.principal, table.conversation_id)
    earlier_id = func.lag(table.message_id).over(
        partition_by=conversation, order_by=table.message_id
    )
    next_begin_us = func.lead(table.begin_us).over(
        partition_by=conversation, order_by=table.message_id
    )
    rows = (
        select(
            tables.answers,
            earlier_id.label("earlier_id"),
            next_begin_us.label("next_begin_us"),
        )
        .where(table.begin_us >= since_us)
        .subquery("answers_in_conversations")
    )
    answers, consents, signals, thumbs = rows.c, tables.consents, tables.signals, tables.thumbs
    source = (
        rows.outerjoin(consents, consents.c.principal == answers.principal)
        .outerjoin(
            signals,
            and_(
                signals.c.principal == answers.principal,
                signals.c.message_id == answers.message_id,
                signals.c.kind == SignalKind.COPIED,
            ),
        )
        .outerjoin(
            thumbs,
            and_(
                thumbs.c.principal == answers.principal, thumbs.c.message_id == answers.message_id
            ),
        )
    )
    training = consents.c.training
    allowed = or_(training, training.is_(None)) if training_default else training.is_(True)
    consented = and_(answers.parent_message_id.is_not(None), allowed)
    deadline_us = answers.finish_us + LEFT_AFTER_US
    in_time = [
        and_(time_us.is_not(None), time_us <= deadline_us)
        for time_us in (answers.next_begin_us, thumbs.c.accept_us, signals.c.accept_us)
    ]
    rates = {
        "refused": Rate(true(), answers.refused),
        "asked_again": Rate(consented, answers.asked_again),
        "edited": Rate(consented, answers.edited),
        "stopped": Rate(consented, answers.stopped),
        "copied": Rate(consented, signals.c.kind.is_not(None)),
        "left": Rate(
            and_(consented, answers.earlier_id.is_not(None), deadline_us <= now_us),
            not_(or_(*in_time)),
        ),
    }
    return CountedRows(rows, source, true(), rates)


class UserCounter(Protocol):
    """Source of user counts."""

    async def count_users_by_version(
        self, versions: Sequence[str], since_us: int
    ) -> dict[str, WeightedCount]:
        """Return the users of each version by their current thumbs up and down and their weight.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class VersionFeedbacks:
    """Reader of counts by version."""

    def __init__(
        self,
        engine: Engine,
        thumbs: UserCounter,
        training_default: bool,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._engine, self._thumbs = engine, thumbs
        self._training_default, self._now_us = training_default, now_us

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
        rates = await self.rates(versions, since_us)
        return [
            VersionFeedback(
                version, users.get(version, WeightedCount()), tuple(rates.get(version, ()))
            )
            for version in versions
        ]

    async def rates(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, Sequence[RateSums]]:
        """Return the rates of versions with trials, of answers begun at or after a time.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        return await run_to_end(self._rates, versions, since_us)

    def _rates(self, versions: Sequence[str], since_us: int) -> defaultdict[str, list[RateSums]]:
        found: defaultdict[str, list[RateSums]] = defaultdict(list)
        with transaction(self._engine) as connection:
            now_us = self._now_us()
            for counted in (
                answers_since(since_us, now_us, self._training_default),
                CountedRows(tables.thumbs, tables.thumbs, begun_since(since_us), THUMB_RATES),
            ):
                for version, sums in _sums(connection, counted, versions):
                    found[version].append(sums)
        return found


def _sums(
    connection: Connection, counted: CountedRows, versions: Sequence[str]
) -> list[tuple[str, RateSums]]:
    """Return the sums of each version and rate with trials."""
    table, rates = counted.table, counted.rates
    counts = []
    for name, rate in rates.items():
        trials, events = case((rate.trial, 1), else_=0), and_(rate.trial, rate.event)
        counts.append(func.sum(trials).label(f"{name}_n"))
        counts.append(func.sum(case((events, 1), else_=0)).label(f"{name}_x"))
    by_user = (
        select(table.c.model_version, *counts)
        .select_from(counted.source)
        .where(
            table.c.model_version.in_(versions),
            table.c.arm.not_in(OUTSIDE_EXPERIMENT),
            counted.begun,
        )
        .group_by(table.c.principal, table.c.model_version)
        .subquery()
    ).c
    # One query for all rates, because the sums by user cost most. Users without trials add zeros.
    totals = []
    for name in rates:
        n, x = by_user[f"{name}_n"], by_user[f"{name}_x"]
        totals += [func.sum(case((n > 0, 1), else_=0)), *map(func.sum, (n, x, n * n, x * x, x * n))]
    query = select(by_user.model_version, *totals).group_by(by_user.model_version)
    found = []
    for version, *sums in connection.execute(query):
        for number, name in enumerate(rates):
            # Postgres sums 64-bit integers as exact decimals.
            users, *numbers = map(int, sums[6 * number : 6 * number + 6])
            if users:
                found.append((version, RateSums(name, users, *numbers)))
    return found


class RateSource(Protocol):
    """Source of the rates of versions."""

    async def rates(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, Sequence[RateSums]]:
        """Return the rates of versions with trials, of answers begun at or after a time.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class RateMetrics(Collector):
    """Collector of the rates of the newest versions.

    Every replica exports the same values; queries take the maximum.
    """

    def __init__(self) -> None:
        self._rates: Mapping[str, Sequence[RateSums]] = {}

    def update(self, rates: Mapping[str, Sequence[RateSums]]) -> None:
        """Replace the exported rates."""
        self._rates = rates

    def collect(self) -> Iterable[Metric]:
        """Return the latest rates."""
        trials, ratio = families = (
            GaugeMetricFamily(
                "thumbwheel_version_rate_trials",
                "Answers of the last day, or thumbs on them, that a rate of a version counts.",
                labels=["version", "rate"],
            ),
            GaugeMetricFamily(
                "thumbwheel_version_rate_ratio",
                "Share of the answers of the last day, or of thumbs on them, with the event.",
                labels=["version", "rate"],
            ),
        )
        for version, rates in self._rates.items():
            for sums in rates:
                trials.add_metric([version, sums.name], sums.trials)
                ratio.add_metric([version, sums.name], sums.events / sums.trials)
        return families


async def refresh_rates_periodically(
    experiments: FigureSource,
    source: RateSource,
    exported: RateMetrics,
    seconds: float = REFRESH_SECONDS,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
) -> None:
    """Refresh the rates of the newest versions until cancelled; after a failure the last stay."""
    while True:
        try:
            versions = {arm.model_version for arm in await experiments.figures()}
            since_us = now_us() - METRICS_DAYS * 86_400 * 1_000_000
            exported.update(await source.rates(sorted(versions), since_us))
        except LedgerUnavailableError as error:
            log.warning("rates of versions not refreshed", extra=fields(reason=error.reason))
        await asyncio.sleep(seconds)
