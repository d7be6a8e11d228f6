"""The rollout in Postgres, where several generators share it: one row, replaced only by whoever
knows its serial number.

Its JSON is the file's, as text: `content::json` opens it in SQL. An error leaves open whether a
statement was done.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Integer,
    MetaData,
    Table,
    Text,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.chassis.errors import UnavailableError
from services.generator.record import NotARolloutError, decode, encode
from services.generator.rollout import Rollout
from services.generator.traffic import NOTHING_STORED, STORE_AWAY, Stored, UnusableStoreError

# The newest migration that this code needs; a database may be ahead while an upgrade rolls through.
REVISION = "0001"
REVISION_TABLE = "generator_revision"
MIGRATE = "python -m services.generator migrate"
RETRY_SECONDS = 1.0
ONLY_ROW = 1

METADATA = MetaData()
ROLLOUT = Table(
    "generator_rollout",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("serial", BigInteger, nullable=False),
    Column("content", Text, nullable=False),
)


class RolloutRow:
    """See `traffic.RolloutStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self) -> Stored:
        """See `traffic.RolloutStore`. A rollout that a newer generator wrote in another format
        counts as away.
        """
        row = (await self._run(select(ROLLOUT.c.serial, ROLLOUT.c.content))).one_or_none()
        if row is None:
            return NOTHING_STORED
        try:
            return Stored(decode(row.content), row.serial)
        except NotARolloutError as error:
            raise UnavailableError(
                "the stored rollout has another format", reason=STORE_AWAY
            ) from error

    async def replace(self, rollout: Rollout, serial: int) -> bool:
        """See `traffic.RolloutStore`."""
        fresh = {"serial": serial + 1, "content": encode(rollout)}
        if serial == NOTHING_STORED.serial:
            done = await self._run(
                insert(ROLLOUT).values(id=ONLY_ROW, **fresh).on_conflict_do_nothing()
            )
        else:
            done = await self._run(update(ROLLOUT).where(ROLLOUT.c.serial == serial).values(fresh))
        return bool(done.rowcount)

    async def require_migrations(self) -> None:
        """Raises: UnusableStoreError: the database lacks some, and the text names the command;
        UnavailableError.
        """
        exists = (await self._run(text("SELECT to_regclass(:name)"), name=REVISION_TABLE)).scalar()
        query = text(f"SELECT version_num FROM {REVISION_TABLE}")  # noqa: S608
        found = (await self._run(query)).scalar() if exists else None
        if found is None or found < REVISION:
            raise UnusableStoreError(
                f"the generator's database is at {found}, {REVISION} is needed: run {MIGRATE}",
                field="database_url",
                reason="MISMATCH",
                limit=REVISION,
            )

    async def _run(self, statement: Executable, **values: Any) -> Any:
        """One statement, one transaction."""
        try:
            async with self._engine.connect() as connection:
                return await connection.execute(statement, values)
        except (SQLAlchemyError, OSError) as error:
            raise UnavailableError(
                "the rollout's database is away", reason=STORE_AWAY, retry_seconds=RETRY_SECONDS
            ) from error


@asynccontextmanager
async def open_rollout_row(url: str, seconds: float) -> AsyncIterator[RolloutRow]:
    """The row behind one connection: its only user does one thing after the other. Connects when it
    is first asked.
    """
    engine = create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={
            "timeout": seconds,
            "command_timeout": seconds,
            "server_settings": {
                "application_name": "thumbwheel-generator",
                "statement_timeout": str(int(seconds * 1000)),
            },
        },
    )
    try:
        yield RolloutRow(engine)
    finally:
        await engine.dispose()
