"""A house a test, unless it opens one with settings of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services.gateway.house import House, house


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened:
        yield opened
