"""Processes of services: their port, once they serve."""

import asyncio
import re


async def served_port(process: asyncio.subprocess.Process, seconds: float = 30) -> int:
    """Return the gRPC port that the log of a starting service names.

    Raises:
        AssertionError: the service ended before it served.
        TimeoutError: it does not serve in time.
    """
    assert process.stderr is not None
    async with asyncio.timeout(seconds):
        while not (
            found := re.search(rb"serving\s+port=(\d+)", line := await process.stderr.readline())
        ):
            assert line, "the service ended before it served"
    return int(found[1])
