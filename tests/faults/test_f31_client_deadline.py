"""F31: the client's deadline passes during a slow answer, and the model server must stop soon."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.faults.generator import model_server
from tests.services.generator.service import Stubs, ask, generator_service, until_ready


@dataclass(frozen=True)
class Variant:
    """A variant of the test.

    `most_seconds` limits the median from deadline to abort. The goal of 100 ms applies to an idle
    machine.
    """

    token_seconds: float
    deadline_seconds: float
    clients: int
    most_seconds: float


async def run_into_deadline(stubs: Stubs, seconds: float) -> float:
    """Return the time of the deadline on the clock common to all processes."""
    deadline = time.monotonic() + seconds
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stubs.generator.Generate(ask(), timeout=seconds):
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return deadline


@pytest.mark.parametrize(
    "form",
    [Variant(0.3, 0.75, 3, 2.0), pytest.param(Variant(2.0, 5.0, 5, 0.1), marks=pytest.mark.long)],
)
async def test_deadline_reaches_the_model_server_and_stops_generation(
    tmp_path: Path, form: Variant, record_property: Any
) -> None:
    async with (
        model_server(script=["word "] * 100, pace_seconds=form.token_seconds) as server,
        generator_service(tmp_path, server.port) as stubs,
    ):
        await until_ready(stubs, "v1")
        deadlines = await asyncio.gather(
            *(run_into_deadline(stubs, form.deadline_seconds) for _ in range(form.clients))
        )
        ended = await server.until(lambda counters: len(counters["aborted_at"]) == form.clients)
        await asyncio.sleep(2 * form.token_seconds)
        later = await server.counters()
    delays = [
        at - deadline
        for at, deadline in zip(sorted(ended["aborted_at"]), sorted(deadlines), strict=True)
    ]
    record_property("fired", form.clients)
    record_property("abort_ms", [round(delay * 1000) for delay in delays])
    assert statistics.median(delays) <= form.most_seconds
    assert 0 < later["words"] == ended["words"], "tokens after the deadline"
    assert later["running"] == 0
