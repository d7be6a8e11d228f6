"""Periodic work and its failures."""

import asyncio
import logging

import pytest

from services.chassis.errors import UnavailableError
from services.review import periodic
from services.review.periodic import Periodic


async def test_failed_work_is_repeated_before_its_pause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=periodic.__name__)
    attempts = []

    async def work() -> None:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise UnavailableError("starting", reason="STARTING")
        repeated.stop()

    repeated = Periodic("work", 3_600.0, work)
    await repeated.run()
    assert len(attempts) == 2
    assert [record.levelno for record in caplog.records] == [logging.INFO]


async def test_work_without_success_for_its_pause_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        await asyncio.sleep(0.002)
        if caplog.records and caplog.records[-1].levelno == logging.WARNING:
            repeated.stop()
        raise UnavailableError("stopped", reason="STOPPED")

    caplog.set_level(logging.INFO, logger=periodic.__name__)
    repeated = Periodic("work", 0.001, work)
    await repeated.run()
    assert caplog.records[-1].levelno == logging.WARNING
