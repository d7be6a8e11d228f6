"""Reading of bodies beyond their limit."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from services.gateway.http.body import read_bytes
from services.gateway.http.errors import BodyTooLargeError
from tests.support.errors import refused

LIMIT = 1000


class Upload:
    """A request whose body arrives in parts of 100 bytes; `taken` counts those that were read."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self.state = SimpleNamespace(receive_slot=asyncio.Lock())

    async def stream(self) -> AsyncIterator[bytes]:
        while self.taken < self.size:
            self.taken += 100
            yield b" " * 100


@pytest.mark.parametrize(("size", "taken"), [(1100, 1100), (2000, 2000), (10_000, 2100)])
async def test_large_body_is_read_up_to_twice_the_limit(size: int, taken: int) -> None:
    """A client may lose the response if its connection closes before its body is read."""
    upload: Any = Upload(size)
    with refused(BodyTooLargeError, field="body", limit="1000 bytes"):
        await read_bytes(cast(Request, upload), LIMIT)
    assert upload.taken == taken


async def test_body_of_the_limit_is_returned() -> None:
    upload: Any = Upload(LIMIT)
    assert await read_bytes(cast(Request, upload), LIMIT) == b" " * LIMIT
