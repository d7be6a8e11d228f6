"""Simulated people at the door of a cluster, as long as somebody needs their thumbs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from infra.simulated_users.bounds import Bounds, Counts
from infra.simulated_users.client import open_client
from infra.simulated_users.population import Population
from infra.simulated_users.preference import PREFERENCES
from infra.simulated_users.questions import read_questions
from infra.simulated_users.rating import Rater
from infra.simulated_users.settings import PLANS
from tests.infra.deploy.deployed import Deployed

RECIPE = "nano"
# As many thumbs, people and questions as the recipe was measured with: on fewer its gate refuses
# now and then, as it should.
PLAN = PLANS[RECIPE]
THUMBS = PLAN.thumbs
CONCURRENCY, SEED = 8, 3
LOOK_SECONDS = 2.0


def keys(deployed: Deployed) -> list[str]:
    """Of so many people as rate."""
    return deployed.keys("simulated", count=PLAN.people)


def people_rate(deployed: Deployed, names: list[str], thumbs: int, seconds: float) -> Counts:
    """So many thumbs, or what was given until time is over."""
    return asyncio.run(
        _people_rate(deployed, names, Bounds(thumbs, seconds, CONCURRENCY), lambda: True)
    )


def people_rate_while(
    deployed: Deployed, names: list[str], wanted: Callable[[], bool], seconds: float
) -> Counts:
    """As long as they are wanted, or until time is over."""
    return asyncio.run(_people_rate(deployed, names, Bounds(100_000, seconds, CONCURRENCY), wanted))


async def _people_rate(
    deployed: Deployed, names: list[str], bounds: Bounds, wanted: Callable[[], bool]
) -> Counts:
    stop = asyncio.Event()
    door = (deployed.shell.layout.state / "door-50051.port").read_text()
    rater = Rater(PREFERENCES[RECIPE], PLAN.temper, None)
    questions = read_questions(RECIPE).some_asked(PLAN.questions, SEED)

    async def look() -> None:
        while await asyncio.to_thread(wanted):
            await asyncio.sleep(LOOK_SECONDS)
        stop.set()

    async with open_client(f"127.0.0.1:{door}") as client:
        looking = asyncio.create_task(look())
        try:
            return await Population(client, names, questions, rater, PLAN.habits, SEED).run(
                bounds, lambda _: None, stop
            )
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
