"""Gateways under test: per test, or per module for tests without lasting effects."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with run_gateway(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[GatewayUnderTest]:
    async with run_gateway(tmp_path_factory.mktemp("gateway")) as opened:
        yield opened
