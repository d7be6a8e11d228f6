"""API keys in a database: found by hash in one parameterised query."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Column, Float, LargeBinary, MetaData, Row, String, Table, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.chassis.errors import UnavailableError
from services.chassis.identity import Caller
from services.gateway.keys import StoredKey

METADATA = MetaData()
KEYS = Table(
    "api_keys",
    METADATA,
    Column("key_id", String(36), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("create_time", Float, nullable=False),
    Column("revoke_time", Float),
)


class SqlKeyStore:
    """See `keys.KeyStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def find(self, digest: bytes) -> StoredKey | None:
        """See `keys.KeyStore`. Raises: UnavailableError, so that a broken database lets nobody in and says so."""
        try:
            async with self._engine.connect() as connection:
                row = (await connection.execute(select(KEYS).where(KEYS.c.digest == digest))).one_or_none()
        except SQLAlchemyError as error:
            raise UnavailableError("the API keys cannot be read", reason="KEYS_UNAVAILABLE") from error
        return _key(row) if row else None

    async def add(self, key: StoredKey) -> None:
        """See `keys.KeyStore`."""
        values = {
            "key_id": key.key_id,
            "digest": key.digest,
            "tenant": key.caller.tenant,
            "user": key.caller.user,
            "create_time": key.create_time,
        }
        try:
            async with self._engine.begin() as connection:
                await connection.execute(KEYS.insert().values(values))
        except IntegrityError:
            # Another start of the same install kept it first.
            return

    async def list_keys(self) -> list[StoredKey]:
        """See `keys.KeyStore`."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(KEYS).order_by(KEYS.c.create_time))
            return [_key(row) for row in rows]

    async def revoke(self, key_id: str, revoke_time: float) -> bool:
        """See `keys.KeyStore`."""
        statement = update(KEYS).where(KEYS.c.key_id == key_id, KEYS.c.revoke_time.is_(None))
        async with self._engine.begin() as connection:
            return (await connection.execute(statement.values(revoke_time=revoke_time))).rowcount == 1


@asynccontextmanager
async def open_key_store(url: str) -> AsyncIterator[SqlKeyStore]:
    """The store at a SQLAlchemy URL with an async driver; its table is made if it is not there."""
    database = make_url(url).database
    if url.startswith("sqlite") and database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield SqlKeyStore(engine)
    finally:
        await engine.dispose()


def _key(row: Row[tuple[str, bytes, str, str, float, float | None]]) -> StoredKey:
    return StoredKey(row.key_id, row.digest, Caller(row.tenant, row.user), row.create_time, row.revoke_time)
