"""Simulated users of a cluster, for as long as thumbs are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from infra.simulate.users.bounds import Bounds, Counts
from infra.simulate.users.client import open_client
from infra.simulate.users.population import Population
from infra.simulate.users.preference import PREFERENCES, Rater
from infra.simulate.users.questions import read_questions
from infra.simulate.users.settings import PLANS
from tests.infra.run.deploy.deployed import Deployed, rows, until

RECIPE = "nano"
# Thumbs, users and questions as measured for the recipe: with fewer, its gate correctly rejects
# some runs.
PLAN = PLANS[RECIPE]
THUMBS = PLAN.thumbs
CONCURRENCY, SEED = 8, 3
LOOK_SECONDS = 2.0
FILL_SECONDS, SINK_SECONDS = 900.0, 300.0


def keys(deployed: Deployed) -> list[str]:
    """Create the API keys of the simulated users."""
    return deployed.keys("simulated", count=PLAN.people)


def rate(deployed: Deployed, names: list[str], thumbs: int, seconds: float) -> Counts:
    """Submit thumbs until their number or the time limit is reached."""
    return asyncio.run(_rate(deployed, names, Bounds(thumbs, seconds, CONCURRENCY), lambda: True))


def fill_bucket(deployed: Deployed, names: list[str], thumbs: int = THUMBS) -> None:
    """Submit thumbs, and wait until all of them are in the bucket."""
    given = rate(deployed, names, thumbs, FILL_SECONDS)
    assert given.thumbs == thumbs
    until(
        "all is in the bucket",
        lambda: rows(deployed.audit(), "feedback") >= given.events,
        SINK_SECONDS,
    )


def rate_while(
    deployed: Deployed, names: list[str], wanted: Callable[[], bool], seconds: float
) -> Counts:
    """Submit thumbs while `wanted` holds, until the time limit."""
    return asyncio.run(_rate(deployed, names, Bounds(100_000, seconds, CONCURRENCY), wanted))


async def _rate(
    deployed: Deployed, names: list[str], bounds: Bounds, wanted: Callable[[], bool]
) -> Counts:
    stop = asyncio.Event()
    public = (deployed.shell.layout.state / "public-50051.port").read_text()
    rater = Rater(PREFERENCES[RECIPE], PLAN.temper, None)
    questions = read_questions(RECIPE).some_asked(PLAN.questions, SEED)

    async def look() -> None:
        while await asyncio.to_thread(wanted):
            await asyncio.sleep(LOOK_SECONDS)
        stop.set()

    async with open_client(f"127.0.0.1:{public}") as client:
        looking = asyncio.create_task(look())
        try:
            return await Population(client, names, questions, rater, PLAN.habits, SEED).run(
                bounds, lambda _: None, stop
            )
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
