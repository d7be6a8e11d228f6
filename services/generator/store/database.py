"""The rollout and the counts of generations in Postgres, shared by several generators.

The rollout has one row, replaced only if its serial number is unchanged (optimistic locking). The
content is the JSON of the rollout file, stored as text; `content::json` opens the text in SQL.
After an error the outcome of a statement is unknown.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.audit.acts import Act
from services.chassis.audit.table import audit_table, records_since
from services.chassis.database.engine import disposing
from services.chassis.database.schema import Schema
from services.chassis.errors import UnavailableError
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    STORE_UNAVAILABLE,
    StoredRollout,
)
from services.generator.rollout.encoding import InvalidRolloutError, decode, encode
from services.generator.rollout.rollout import Rollout
from services.generator.rollout.traffic import ALL_TIME, OUTCOME_UNKNOWN, CountKey, CountKind

SCHEMA = Schema(
    Path(__file__).parent / "migrations",
    revision_table="generator_revision",
    lock=0x7477_6765_6E,
    outdated_text="the generator's database is at revision {found}, required is {head}; "
    "run python -m services.generator migrate",
)
RETRY_SECONDS = 1.0
ROW_ID = 1
# Rows of a statement; the protocol permits 32,767 parameters.
MAX_COUNT_ROWS = 1_000

METADATA = MetaData()
ROLLOUT = Table(
    "generator_rollout",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("serial", BigInteger, nullable=False),
    Column("content", Text, nullable=False),
)

AUDIT = audit_table(METADATA, "generator")

TRAFFIC = Table(
    "generator_traffic",
    METADATA,
    Column("version", String(128), primary_key=True),
    Column("since_us", BigInteger, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("bin", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),
)


class RolloutRow:
    """The rollout in one table row; implements `RolloutStore` and, with a table, `TrafficStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self) -> StoredRollout:
        """Implement `RolloutStore.load`.

        Raises:
            UnavailableError: the database does not answer, or the stored rollout has the format of
                a newer generator.
        """
        row = (await self._run(select(ROLLOUT.c.serial, ROLLOUT.c.content))).one_or_none()
        if row is None:
            return NOTHING_STORED
        try:
            return StoredRollout(decode(row.content), row.serial)
        except InvalidRolloutError as error:
            raise UnavailableError(
                "the stored rollout has another format", reason=STORE_UNAVAILABLE
            ) from error

    async def replace(self, rollout: Rollout, serial: int, act: Act | None = None) -> bool:
        """Implement `RolloutStore.replace` for the row."""
        new_values = {"serial": serial + 1, "content": encode(rollout)}
        statement: Executable
        if serial == NOTHING_STORED.serial:
            statement = insert(ROLLOUT).values(id=ROW_ID, **new_values).on_conflict_do_nothing()
        else:
            statement = update(ROLLOUT).where(ROLLOUT.c.serial == serial).values(new_values)
        async with self._transaction() as connection:
            is_replaced = bool((await connection.execute(statement)).rowcount)
            if is_replaced and act is not None:
                await connection.execute(AUDIT.insert().values(act.record()))
        if is_replaced and act is not None:
            act.log()
        return is_replaced

    async def append(self, act: Act) -> None:
        await self._run(AUDIT.insert().values(act.record()))
        act.log()

    async def audit_records(self, since_us: int) -> Sequence[Mapping[str, Any]]:
        rows = await self._run(records_since(AUDIT, since_us))
        return [dict(row) for row in rows.mappings()]

    async def add_traffic(self, counts: Mapping[CountKey, int]) -> None:
        """Implement the method `TrafficStore.add_traffic`.

        The rows are sorted, so that two replicas lock them in the same order.
        """
        names = [column.name for column in TRAFFIC.columns]
        rows = [
            dict(zip(names, (*key, count), strict=True)) for key, count in sorted(counts.items())
        ]
        is_committing = False
        try:
            async with self._engine.connect() as connection:
                for start in range(0, len(rows), MAX_COUNT_ROWS):
                    added = insert(TRAFFIC).values(rows[start : start + MAX_COUNT_ROWS])
                    await connection.execute(
                        added.on_conflict_do_update(
                            index_elements=TRAFFIC.primary_key,
                            set_={"count": TRAFFIC.c.count + added.excluded.count},
                        )
                    )
                # Before COMMIT is sent, every failure is a rollback.
                is_committing = True
                await connection.commit()
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable_error(
                OUTCOME_UNKNOWN if is_committing else STORE_UNAVAILABLE
            ) from error

    async def read_traffic(self, versions: Sequence[str], since_us: int) -> Mapping[CountKey, int]:
        query = select(TRAFFIC).where(
            TRAFFIC.c.version.in_(versions), TRAFFIC.c.since_us == since_us
        )
        return {
            CountKey(version, since_us, CountKind(kind), number): count
            for version, since_us, kind, number, count in await self._run(query)
        }

    async def forget_traffic(self, except_since_us: int) -> None:
        kept = TRAFFIC.c.since_us.in_((ALL_TIME, except_since_us))
        await self._run(delete(TRAFFIC).where(~kept))

    async def require_migrations(self) -> None:
        """Check that the database has all migrations that this code needs.

        Raises:
            SchemaRevisionError: migrations are missing; the text names the command.
            UnavailableError: the database does not answer.
        """
        async with self._transaction() as connection:
            await connection.run_sync(SCHEMA.needs_upgrade)

    async def _run(self, statement: Executable, **values: Any) -> Any:
        """Run one statement in its own transaction."""
        async with self._transaction() as connection:
            return await connection.execute(statement, values)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable_error(STORE_UNAVAILABLE) from error


def _unavailable_error(reason: str) -> UnavailableError:
    return UnavailableError(
        "the rollout's database is unavailable", reason=reason, retry_seconds=RETRY_SECONDS
    )


@asynccontextmanager
async def open_rollout_row(url: str, seconds: float) -> AsyncIterator[RolloutRow]:
    """Open the row on a pool of one connection, for which its users wait.

    The connection opens with the first statement.
    """
    engine = create_async_engine(
        url,
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
    async with disposing(engine):
        yield RolloutRow(engine)


async def migrate(url: str) -> None:
    """Apply all missing migrations in one transaction."""
    async with disposing(create_async_engine(url)) as engine, engine.begin() as connection:
        await connection.run_sync(SCHEMA.upgrade)
