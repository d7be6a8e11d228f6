"""Replicas of the generator with a common store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from services.generator.rollout.rollout import user_fraction
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import Stubs, generator_service, until_ready

USERS = [f"acme/user {number}" for number in range(30)]


@asynccontextmanager
async def replicas(
    root: Path, predictor: FakePredictor, database: str, **changes: Any
) -> AsyncIterator[Sequence[Stubs]]:
    """Run two generators with a ready stable version.

    The unload grace is several times the poll interval, as in production.
    """
    settings = {"database_url": database, "unload_grace_seconds": 0.5} | changes
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(predictor_server(predictor))
        services = [generator_service(root, port, **settings) for _ in range(2)]
        pair = [await stack.enter_async_context(service) for service in services]
        for stubs in pair:
            await until_ready(stubs, "v1")
        yield pair


async def versions(stubs: Stubs) -> list[str]:
    return await asyncio.gather(*(stubs.version_for(user) for user in USERS))


async def agreed(pair: Sequence[Stubs], expected: list[str]) -> float:
    """Return the seconds until every replica gives every user the expected version."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(10):
        while [await versions(stubs) for stubs in pair] != [expected, expected]:
            await asyncio.sleep(0.01)
    return loop.time() - began


def expected(share: float) -> list[str]:
    return ["v2" if user_fraction("v2", user) < share else "v1" for user in USERS]
