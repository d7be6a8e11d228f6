"""Metrics of erasures, also while the database is unavailable."""

import asyncio
import time

from prometheus_client import REGISTRY

from services.chassis.errors import UnavailableError
from services.feedback.principals.erasure_metrics import update_metrics_periodically
from services.feedback.principals.erasures import PendingErasures


class Ledger:
    """Ledger with prepared results; an exception is raised."""

    def __init__(self, *answers: PendingErasures | UnavailableError) -> None:
        self._answers, self.asked = list(answers), 0

    def pending(self) -> PendingErasures:
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        if isinstance(answer, UnavailableError):
            raise answer
        return answer


def shown() -> tuple[float | None, float]:
    names = ("erasures_waiting", "erasure_oldest_waiting_seconds")
    waiting, oldest = (REGISTRY.get_sample_value(f"thumbwheel_feedback_{name}") for name in names)
    return waiting, oldest or 0.0


async def counted(ledger: Ledger, times: int) -> None:
    counting = asyncio.create_task(update_metrics_periodically(ledger, seconds=0.001))
    async with asyncio.timeout(10):
        while ledger.asked < times:
            await asyncio.sleep(0.001)
    counting.cancel()


async def test_the_age_of_the_oldest_erasure_grows_during_an_outage() -> None:
    since_us = time.time_ns() // 1_000 - 90_000_000
    await counted(Ledger(PendingErasures(2, since_us), UnavailableError("away")), 5)
    waiting, oldest = shown()
    assert waiting == 2
    assert 90 <= oldest < 150


async def test_without_pending_erasures_the_age_is_zero() -> None:
    await counted(Ledger(PendingErasures(1, 1), PendingErasures(0, None)), 3)
    assert shown() == (0, 0)
