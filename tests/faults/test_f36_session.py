"""F36: Postgres restarts, hangs, is locked, has no free connection, or is read-only.

No acknowledged turn is lost or duplicated. Each fault is verified by a counter. Two replicas share
the database, and the clients use both.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from thumbwheel.session.v1 import session_pb2

from tests.faults.turns import History, check, talk_during
from tests.servers import PostgresServer
from tests.services.session.replicas import foreign_connection, two_replicas
from tests.services.session.service import (
    ADA,
    FakeFeedback,
    Home,
    begin,
    error_of,
    feedback_service,
)

SHORT = {
    "database_pool_seconds": 0.4,
    "database_lock_seconds": 0.3,
    "database_statement_seconds": 0.6,
    "database_work_seconds": 1.5,
}

TERMINATE_BACKENDS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'thumbwheel-session'"
)


def count(metric: str, reason: str) -> float:
    return (
        REGISTRY.get_sample_value(f"thumbwheel_session_work_{metric}_total", {"reason": reason})
        or 0.0
    )


@asynccontextmanager
async def replicas_with_short_timeouts(
    home: Home, feedback: FakeFeedback, **changes: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """Run two replicas that wait one second at most for the database."""
    async with feedback_service(feedback) as port:
        settings = SHORT | {"feedback_target": f"127.0.0.1:{port}"} | changes
        async with two_replicas(home, **settings) as replicas:
            yield replicas


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.long)])
async def test_f36_postgres_is_killed_and_restarts(
    postgres: PostgresServer, postgres_home: Home, kills: int
) -> None:
    feedback, history = FakeFeedback(), History()
    broken_before = count("failed", "SESSION_DATABASE_AWAY")

    async def kill_and_restart() -> None:
        for _ in range(kills):
            postgres.kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(postgres.start)
            await asyncio.sleep(1.0)

    async with replicas_with_short_timeouts(postgres_home, feedback) as replicas:
        await talk_during(history, replicas, kill_and_restart)
        await check(history, replicas[0], feedback)
    assert count("failed", "SESSION_DATABASE_AWAY") > broken_before


async def test_f36_killed_backend_costs_a_retry_and_no_error(postgres_home: Home) -> None:
    feedback, history = FakeFeedback(), History()
    before = count("run_again", "SESSION_DATABASE_AWAY")

    async def end_every_connection() -> None:
        async with foreign_connection(postgres_home) as connection:
            for _ in range(5):
                assert await connection.fetch(TERMINATE_BACKENDS)
                await asyncio.sleep(0.2)

    async with replicas_with_short_timeouts(postgres_home, feedback) as replicas:
        await talk_during(history, replicas, end_every_connection)
        await check(history, replicas[0], feedback)
    assert count("run_again", "SESSION_DATABASE_AWAY") > before


async def test_f36_frozen_server_is_an_error_in_time(
    postgres: PostgresServer, postgres_home: Home
) -> None:
    feedback, history = FakeFeedback(), History()
    before = count("failed", "SESSION_DATABASE_BUSY")

    async def stand_still() -> None:
        postgres.pause()
        await asyncio.sleep(2.5)
        postgres.resume()

    async with replicas_with_short_timeouts(postgres_home, feedback) as replicas:
        await talk_during(history, replicas, stand_still)
        await check(history, replicas[0], feedback)
    assert count("failed", "SESSION_DATABASE_BUSY") > before


async def test_f36_foreign_lock_is_an_error_in_time_without_aftereffects(
    postgres_home: Home,
) -> None:
    feedback, history = FakeFeedback(), History()
    before = count("failed", "SESSION_DATABASE_BUSY")

    async def lock_everything() -> None:
        async with foreign_connection(postgres_home) as connection, connection.transaction():
            await connection.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(2.0)

    async with replicas_with_short_timeouts(postgres_home, feedback) as replicas:
        await talk_during(history, replicas, lock_everything)
        await check(history, replicas[0], feedback)
    assert set(history.errors) == {"SESSION_DATABASE_BUSY"}
    assert count("failed", "SESSION_DATABASE_BUSY") > before


async def test_f36_exhausted_pool_is_reported_without_aftereffects(postgres_home: Home) -> None:
    feedback, history = FakeFeedback(), History()
    codes = set()

    async def hold_all_connections() -> None:
        """Each call waits for the lock and holds a connection. The third finds none."""
        async with foreign_connection(postgres_home) as connection, connection.transaction():
            await connection.execute("LOCK TABLE turns IN ACCESS EXCLUSIVE MODE")
            calls = [
                error_of(
                    replicas[0].BeginTurn(begin("x", request_id=f"x{n}"), timeout=5, metadata=ADA)
                )
                for n in range(6)
            ]
            codes.update(code for code, *_ in await asyncio.gather(*calls))

    settings = {"connections": 2, "database_lock_seconds": 1.0, "database_statement_seconds": 1.2}
    async with replicas_with_short_timeouts(postgres_home, feedback, **settings) as replicas:
        await talk_during(history, replicas, hold_all_connections)
        await check(history, replicas[0], feedback)
    assert (
        grpc.StatusCode.RESOURCE_EXHAUSTED
        in codes
        <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    )


async def test_f36_read_only_database_still_serves_reads(postgres_home: Home) -> None:
    feedback, history = FakeFeedback(), History()
    name = postgres_home.database_url.rsplit("/", 1)[-1]
    listed = []

    async def read_only() -> None:
        async with foreign_connection(postgres_home) as connection:
            await connection.execute(
                f"ALTER DATABASE {name} SET default_transaction_read_only = on"
            )
            await connection.fetch(TERMINATE_BACKENDS)
            await asyncio.sleep(0.5)
            request = session_pb2.ListConversationsRequest()
            listed.append(await replicas[0].ListConversations(request, timeout=5, metadata=ADA))
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    async with replicas_with_short_timeouts(postgres_home, feedback) as replicas:
        await talk_during(history, replicas, read_only)
        await check(history, replicas[0], feedback)
    assert history.errors["SESSION_DATABASE_READ_ONLY"] > 0
    assert listed[0].conversations
