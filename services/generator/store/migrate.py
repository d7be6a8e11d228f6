"""Migration of the generator's database (`python -m services.generator migrate`).

Only this module imports alembic.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

STEPS = Path(__file__).parent / "migrations"
# Key of the advisory lock, not used by other migrations. Concurrent migrations run one after the
# other.
LOCK = 0x7477_6765_6E


def alembic_config() -> Config:
    """Return the configuration with the folder of the migrations; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(STEPS))
    return config


async def migrate(url: str) -> None:
    """Apply all missing migrations in one transaction."""

    def upgrade(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()
