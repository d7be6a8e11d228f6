"""F51: a replica is removed while Kafka is unavailable, with acknowledged events in its log.

The process ends with its own exit status, the other replica reports the log, and a command relays
the log without the owner.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.feedback.__main__ import EXIT_EVENTS_WAITING
from services.feedback.spool.registry import RegisteredLog, SpoolRegistry
from tests.faults.feedback import (
    Clients,
    ReplicaProcess,
    Stack,
    variables,
    wait_until,
    wait_until_sunk,
)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_f51_the_log_of_a_removed_replica_is_reported_and_relayed(
    feedback_stack: Stack, record_property: Any
) -> None:
    leaving, staying = ReplicaProcess(feedback_stack, 0), ReplicaProcess(feedback_stack, 1)
    async with (
        leaving.running(relay_watchdog_seconds=2) as first,
        staying.running(relay_watchdog_seconds=2) as second,
    ):
        clients = Clients([first, second])
        await clients.send(10)
        await wait_until_sunk(feedback_stack, clients.history)
        await asyncio.to_thread(feedback_stack.kafka.kill)
        await clients.send(20)
        assert await leaving.stop() == EXIT_EVENTS_WAITING
        assert "acknowledged events wait in the write-ahead log" in leaving.log_text()
        row = log_of(feedback_stack, leaving.spool / "feedback")
        assert row.waiting > 0

        def is_shown() -> bool:
            events = staying.metric_value("absent_spool_events", stream="feedback")
            return events == row.waiting

        shown = await wait_until(is_shown, "the other replica to report the log")
        clients.stubs = [second]
        await clients.send(5)
        await asyncio.to_thread(feedback_stack.kafka.start)
        assert await asyncio.to_thread(relay, feedback_stack, staying.spool) == 1, "it is in use"
        assert await asyncio.to_thread(relay, feedback_stack, leaving.spool) == 0
        await wait_until_sunk(feedback_stack, clients.history)
        await wait_until(
            lambda: not staying.metric_value("absent_spool_seconds"), "the report to end"
        )
        assert await staying.stop() == 0
    assert SpoolRegistry(feedback_stack.engine, "").logs() == []
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("events_left_behind", row.waiting)
    record_property("shown_after_seconds", round(shown, 1))


def log_of(stack: Stack, folder: Path) -> RegisteredLog:
    (found,) = [
        each for each in SpoolRegistry(stack.engine, "").logs() if each.directory == str(folder)
    ]
    return found


def relay(stack: Stack, folder: Path) -> int:
    """Run `python -m services.feedback relay` and return its exit status."""
    command = [sys.executable, "-m", "services.feedback", "relay", str(folder)]
    return subprocess.run(command, env=variables(stack.values(9)), check=False).returncode
