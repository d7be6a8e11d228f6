"""Simulated people at the door of a cluster, as long as somebody needs their thumbs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

from infra.deploy import release
from infra.deploy.inside import Inside
from infra.simulated_users.bounds import Bounds, Counts
from infra.simulated_users.client import open_client
from infra.simulated_users.crowd import Crowd
from infra.simulated_users.preference import PREFERENCES
from infra.simulated_users.questions import read_questions
from infra.simulated_users.rating import Rater
from infra.simulated_users.settings import PLANS

RECIPE = "nano"
PEOPLE, CONCURRENCY, QUESTIONS, SEED = 20, 6, 40, 3
LOOK_SECONDS = 2.0


def keys(inside: Inside) -> list[str]:
    """API keys, by the gateway's own command."""
    where = ["kubectl", "--namespace", release.NAMESPACE, "exec", f"deployment/{release.NAME}-gateway", "--"]
    command = ["python3", "-m", "services.gateway", "keys", "create", "--user", "simulated", "--count", str(PEOPLE)]
    return inside.run(*where, *command).split()


def committed(inside: Inside) -> int:
    """Rows of feedback in the bucket, by feedback's own audit."""
    where = [
        "kubectl",
        "--namespace",
        release.NAMESPACE,
        "exec",
        f"{release.NAME}-feedback-0",
        "--container",
        "feedback",
    ]
    report = inside.run(*where, "--", "python3", "-m", "services.feedback", "audit")
    return sum(int(found) for found in re.findall(r"^feedback topic=.* rows=(\d+) ", report, re.MULTILINE))


def people_rate(inside: Inside, names: list[str], thumbs: int, seconds: float) -> Counts:
    """So many thumbs, or what was given until time is over."""
    return asyncio.run(_people_rate(inside, names, Bounds(thumbs, seconds, CONCURRENCY), lambda: True))


def people_rate_while(inside: Inside, names: list[str], wanted: Callable[[], bool], seconds: float) -> Counts:
    """As long as they are wanted, or until time is over."""
    return asyncio.run(_people_rate(inside, names, Bounds(100_000, seconds, CONCURRENCY), wanted))


async def _people_rate(inside: Inside, names: list[str], bounds: Bounds, wanted: Callable[[], bool]) -> Counts:
    plan, stop = PLANS[RECIPE], asyncio.Event()
    door = (inside.layout.state / "door-50051.port").read_text()
    rater = Rater(PREFERENCES[RECIPE], plan.temper, None)
    questions = read_questions(RECIPE).some_asked(QUESTIONS, SEED)

    async def look() -> None:
        while await asyncio.to_thread(wanted):
            await asyncio.sleep(LOOK_SECONDS)
        stop.set()

    async with open_client(f"127.0.0.1:{door}", plan.manner) as client:
        looking = asyncio.create_task(look())
        try:
            return await Crowd(client, names, questions, rater, plan.habits, SEED).run(bounds, lambda _: None, stop)
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
