"""Proxy that breaks commits of a real Postgres: the view of client and server."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from infra.simulate.faults.postgres import CommitFault, CommitProxy
from tests.servers import PostgresServer


@pytest.mark.parametrize(
    ("kind", "stored"),
    [(CommitFault.NOT_SENT, False), (CommitFault.ANSWER_LOST, True), (CommitFault.LATE, True)],
    ids=str,
)
async def test_client_sees_reset_and_server_state_matches_the_fault(
    postgres: PostgresServer, kind: CommitFault, stored: bool
) -> None:
    database = await asyncio.to_thread(postgres.database)
    whole = await asyncpg.connect(database.url("postgresql"))
    await whole.execute("CREATE TABLE made (id INTEGER)")
    with CommitProxy(database.port) as proxy:
        client = await asyncpg.connect(replace(database, port=proxy.port).url("postgresql"))
        proxy.planned.append(kind)
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            async with client.transaction():
                await client.execute("INSERT INTO made VALUES (1)")
        if kind is CommitFault.LATE:
            assert await whole.fetchval("SELECT count(*) FROM made") == 0, (
                "its commit is still under way"
            )
        async with asyncio.timeout(10):
            while (
                await whole.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                )
                > 1
            ):
                await asyncio.sleep(0.02)
        assert await whole.fetchval("SELECT count(*) FROM made") == stored
        await whole.close()
    assert proxy.counts[kind] == 1
