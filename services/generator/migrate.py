"""`python -m services.generator migrate`: brings the database to what this code needs. Only here is
alembic imported.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

STEPS = Path(__file__).parent / "migrations"
# Any number that no other migration on this database takes: two who migrate at once go one after
# the other.
LOCK = 0x7477_6765_6E


def alembic_config() -> Config:
    """Where the steps are; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(STEPS))
    return config


async def migrate(url: str) -> None:
    """All missing steps in one transaction; none is the usual case."""
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
