"""Two gateways over one Valkey and the same fakes: replicas in one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from valkey.asyncio import Valkey

from tests.services.gateway.fakes import backends
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway_over

SECRET = "a secret that only tests know"


def valkey_settings(url: str, **changes: Any) -> dict[str, Any]:
    """Return the settings for sharing, with a long timeout for busy test machines."""
    return {"valkey_url": url, "valkey_secret": SECRET, "valkey_seconds": 2.0, **changes}


@asynccontextmanager
async def two_gateways(
    directory: Path, url: str, **changes: Any
) -> AsyncIterator[tuple[GatewayUnderTest, GatewayUnderTest]]:
    """Run two gateways with the same settings."""
    shared = valkey_settings(url, **changes)
    async with (
        backends() as (fakes, target),
        run_gateway_over(directory, fakes, target, **shared) as first,
        run_gateway_over(directory, fakes, target, **shared) as second,
    ):
        yield first, second


async def everything(url: str) -> str:
    """Return all names and values of a Valkey database as text."""
    async with Valkey.from_url(url) as client:
        found: list[object] = []
        for key in await client.keys("*"):
            kind = (await client.type(key)).decode()
            read = {"stream": client.xrange, "hash": client.hgetall, "string": client.get}.get(kind)
            found.append((key, await read(key) if read else kind))
        return repr(found)
