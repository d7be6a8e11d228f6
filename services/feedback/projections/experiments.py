"""Figures of experiments: exposures to versions and the thumbs on their answers.

Exposures change in the transaction that commits a segment of turns. Only the first turn of a user
with a version under an arm counts. The figures are valid at every look.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, Engine, delete, func, insert, select, tuple_

from services.feedback.events import TurnEvent
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.projections.confidence import Interval, interval
from services.feedback.projections.projection import Projection, advance_position
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.projections.thumbs import ThumbCount
from services.feedback.sink.sink import Position
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import chunks, transaction

Key = tuple[str, str, str]
"""Principal, model version and arm of an exposure."""
# Limit for metrics and responses, since versions accumulate over the years.
NEWEST_VERSIONS = 10


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
        exposures = await asyncio.to_thread(self._exposures, since_us)
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
        key_in = tuple_(table.c.principal, table.c.model_version, table.c.arm).in_(chunk)
        known = {
            tuple(row[:3]): row.first_us for row in connection.execute(select(table).where(key_in))
        }
        # Partitions arrive in any order, so an earlier turn may come later.
        moved = [key for key in chunk if key not in known or first[key] < known[key]]
        if earlier := [key for key in moved if key in known]:
            connection.execute(delete(table).where(tuple_(*table.primary_key.columns).in_(earlier)))
        if moved:
            names = ("principal", "model_version", "arm")
            rows = [{**dict(zip(names, key, strict=True)), "first_us": first[key]} for key in moved]
            connection.execute(insert(table), rows)
