"""Figures of experiments: exposures to versions and the thumbs on their answers.

Exposures change in the transaction that commits a segment of turns. Only the first turn of a user
with a version under an arm counts. The figures are valid at every look.

The confidence interval of a thumbs-up rate is anytime-valid. The mixture of all rates divided by
the likelihood of the true rate is a non-negative martingale starting at 1. Its probability of ever
exceeding 1/alpha is at most alpha (Ville; Robbins 1970). The interval holds all rates below that
bound. The canary compares two versions instead (sequential/rates.py).

The Prometheus metrics of experiments are refreshed periodically and never during a scrape.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine, delete, func, insert, select

from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.feedback.events import TurnEvent
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.projections.projection import Projection, advance_position, key_in
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.projections.thumbs import ThumbCount
from services.feedback.sink import Position
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError, chunks, transaction

log = logging.getLogger(__name__)

KEY_COLUMNS = ("principal", "model_version", "arm")
Key = tuple[str, str, str]
"""Principal, model version and arm of an exposure."""
# Limit for metrics and responses, since versions accumulate over the years.
NEWEST_VERSIONS = 10
REFRESH_SECONDS = 15.0
# Probability of ever excluding the true rate, at any number of looks.
ALPHA = 0.05
# Bisection steps; 2**-40 is a negligible error of a rate.
STEPS = 40


@dataclass(frozen=True)
class Interval:
    """Interval of rates from 0 to 1."""

    low: float
    high: float


@dataclass(frozen=True)
class ArmFigures:
    """Figures of one version under one arm.

    `up_rate` lies in `up_rate_interval` with 95 % over the whole experiment.
    """

    model_version: str
    arm: str
    exposed_users: int
    first_us: int
    up: int
    down: int

    @property
    def up_rate(self) -> float:
        """Share of thumbs up among the current thumbs; 0 without thumbs."""
        return self.up / (self.up + self.down) if self.up + self.down else 0.0

    @property
    def up_rate_interval(self) -> Interval:
        """Confidence interval of the rate."""
        return interval(self.up, self.down)


class ThumbCounter(Protocol):
    """Source of thumb counts."""

    async def count(self, since_us: int) -> list[ThumbCount]:
        """Return the current thumbs by version and arm.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class Experiments:
    """Reader of exposures and thumbs."""

    def __init__(self, engine: Engine, thumbs: ThumbCounter) -> None:
        self._engine, self._thumbs = engine, thumbs

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        """Return the figures of the newest versions, the version with the newest exposure first.

        Args:
            since_us: Only thumbs and first exposures at or after this time.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        votes = {
            (count.model_version, count.arm): (count.up, count.down)
            for count in await self._thumbs.count(since_us)
        }
        exposures = await run_to_end(self._exposures, since_us)
        figures = [
            ArmFigures(version, arm, users, first_us, *votes.get((version, arm), (0, 0)))
            for (version, arm), (users, first_us) in exposures.items()
        ]
        first_exposures: dict[str, int] = {}
        for arm_figures in figures:
            first_exposures[arm_figures.model_version] = min(
                arm_figures.first_us,
                first_exposures.get(arm_figures.model_version, arm_figures.first_us),
            )
        newest = sorted(
            first_exposures, key=lambda version: (first_exposures[version], version), reverse=True
        )[:NEWEST_VERSIONS]
        return sorted(
            (arm_figures for arm_figures in figures if arm_figures.model_version in newest),
            key=lambda arm_figures: (newest.index(arm_figures.model_version), arm_figures.arm),
        )

    def _exposures(self, since_us: int) -> Mapping[tuple[str, str], tuple[int, int]]:
        table = tables.exposures.c
        query = (
            select(table.model_version, table.arm, func.count(), func.min(table.first_us))
            .where(table.first_us >= since_us)
            .group_by(table.model_version, table.arm)
        )
        with transaction(self._engine) as connection:
            return {
                (version, arm): (users, first)
                for version, arm, users, first in connection.execute(query)
            }


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, TurnEvent]]
) -> None:
    """Update the exposures from one batch, inside the ledger's transaction."""
    _apply(
        connection, ((_key(vars(event)), event.finish_us) for _, event in kept if not event.erased)
    )
    advance_position(connection, tables.exposure_positions, position)


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild outdated exposures and return True after a rebuild."""

    def apply_rows(connection: Connection, rows: Sequence[parquet.Row]) -> None:
        lasting = (row for row in rows if not row["erased"])
        _apply(connection, ((_key(row), int(str(row["finish_time"]))) for row in lasting))

    projection = Projection(tables.exposures, tables.exposure_positions, apply_rows)
    return rebuild(projection, ledger, store, stream)


def _key(turn: Mapping[str, object]) -> Key:
    return str(turn["principal"]), str(turn["model_version"]), str(turn["arm"])


def _apply(connection: Connection, turns: Iterable[tuple[Key, int]]) -> None:
    """Record the first exposure of each key.

    Turns without a version (blocked by the guardrail) and retracting turns expose no user.
    """
    first: dict[Key, int] = {}
    for key, finish_us in turns:
        if key[1]:
            first[key] = min(finish_us, first.get(key, finish_us))
    table = tables.exposures
    for chunk in chunks(first.keys()):
        rows = connection.execute(select(table).where(key_in(table, KEY_COLUMNS, chunk)))
        known = {tuple(row[:3]): row.first_us for row in rows}
        # Partitions arrive in any order, so an earlier turn may come later.
        moved = [key for key in chunk if key not in known or first[key] < known[key]]
        if earlier := [key for key in moved if key in known]:
            connection.execute(delete(table).where(key_in(table, KEY_COLUMNS, earlier)))
        if moved:
            connection.execute(
                insert(table),
                [
                    {**dict(zip(KEY_COLUMNS, key, strict=True)), "first_us": first[key]}
                    for key in moved
                ],
            )


def interval(up: int, down: int, alpha: float = ALPHA) -> Interval:
    """Return the interval of a rate from its counts; without votes the interval is [0, 1]."""
    if not up + down:
        return Interval(0.0, 1.0)
    estimate = up / (up + down)
    threshold = log_mixture(up, down) + math.log(alpha)
    low = 0.0 if not up else _boundary(up, down, 0.0, estimate, threshold)
    high = 1.0 if not down else _boundary(up, down, 1.0, estimate, threshold)
    return Interval(low, high)


def log_mixture(up: int, down: int) -> float:
    """Return log of the mean likelihood over all rates, the Beta function of the counts."""
    return math.lgamma(up + 1) + math.lgamma(down + 1) - math.lgamma(up + down + 2)


def log_likelihood(up: int, down: int, rate: float) -> float:
    """Return the log likelihood of counts for a rate between 0 and 1."""
    return (up * math.log(rate) if up else 0.0) + (down * math.log1p(-rate) if down else 0.0)


def _boundary(up: int, down: int, outside: float, inside: float, threshold: float) -> float:
    """Find the rate with log likelihood `threshold` between the estimate and an end, by bisection.

    On each side of the estimate the likelihood only falls.
    """
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if log_likelihood(up, down, middle) > threshold:
            inside = middle
        else:
            outside = middle
    return outside


class FigureSource(Protocol):
    """Source of the figures."""

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        """Return the figures of all arms of the newest versions.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class ExperimentMetrics(Collector):
    """Collector of experiment figures.

    Every replica exports the same values; queries take the maximum.
    """

    def __init__(self) -> None:
        self._figures: Sequence[ArmFigures] = ()

    def update(self, figures: Sequence[ArmFigures]) -> None:
        """Replace the exported figures."""
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Return the latest figures, each arm complete."""
        users, thumbs, ratio, low, high = families = (
            GaugeMetricFamily(
                "thumbwheel_experiment_exposed_users",
                "Users exposed to a version.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs",
                "Current thumbs on the answers of a version.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs_up_ratio",
                "Share of thumbs up among the current thumbs.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs_up_low_ratio",
                "Lower end of the confidence interval of the ratio, valid at every look.",
                labels=["version", "arm"],
            ),
            GaugeMetricFamily(
                "thumbwheel_experiment_thumbs_up_high_ratio",
                "Upper end of the confidence interval of the ratio, valid at every look.",
                labels=["version", "arm"],
            ),
        )
        for arm in self._figures:
            labels = [arm.model_version, arm.arm]
            users.add_metric(labels, arm.exposed_users)
            thumbs.add_metric(labels, arm.up + arm.down)
            low.add_metric(labels, arm.up_rate_interval.low)
            high.add_metric(labels, arm.up_rate_interval.high)
            if arm.up + arm.down:
                ratio.add_metric(labels, arm.up_rate)
        return families


async def refresh_periodically(
    source: FigureSource, exported: ExperimentMetrics, seconds: float = REFRESH_SECONDS
) -> None:
    """Refresh the figures until cancelled; while the database is unavailable the last ones stay."""
    while True:
        try:
            exported.update(await source.figures())
        except LedgerUnavailableError as error:
            log.warning("experiment figures not refreshed", extra=fields(reason=error.reason))
        await asyncio.sleep(seconds)
