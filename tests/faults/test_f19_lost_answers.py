"""F19: a PUT succeeds and its response is lost.

The batch is written again under another key, and the orphan is counted and collected.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from infra.simulate.faults.proxy import Chance
from services.feedback.lake.orphans import delete_orphans, find_orphans
from tests.faults.feedback import (
    S3,
    Clients,
    Stack,
    local_replica,
    port_of,
    stack_on,
    variables,
    wait_until,
    wait_until_sunk,
)
from tests.servers import KafkaServer, PostgresServer, S3Server

ANSWER_LOST = HttpFault(Kind.ANSWER_LOST, methods=frozenset({"PUT"}))


def delete_orphans_now(stack: Stack) -> int:
    """Delete dead orphans of any age and return their number."""
    orphans = find_orphans(stack.ledger, stack.store, "feedback")
    return sum(
        1
        for _ in delete_orphans(stack.store, orphans, before_us=time.time_ns() // 1_000 + 1_000_000)
    )


async def test_f19_a_lost_put_response_makes_no_duplicate_and_its_orphan_is_deleted(
    kafka: KafkaServer, postgres: PostgresServer, s3: S3Server, tmp_path: Path, record_property: Any
) -> None:
    bucket = s3.bucket()
    with (
        HttpProxy(port_of(bucket)) as proxy,
        stack_on(tmp_path, kafka, postgres, S3(bucket, proxy.port)) as stack,
    ):
        async with local_replica(stack) as stub:
            clients = Clients([stub])
            # Wait for the self-test of the start, whose own object would be counted.
            await clients.send(1)
            await wait_until_sunk(stack, clients.history)
            sunk, stored = sum(stack.committed().values()), len(list(stack.store.list("feedback/")))
            proxy.faults = (ANSWER_LOST,)
            async with clients.sending():
                # The batch grows between attempts, so each attempt has another key.
                await wait_until(
                    lambda: len(list(stack.store.list("feedback/"))) >= stored + 4, "puts"
                )
            assert sum(stack.committed().values()) == sunk, (
                "an object that was not acknowledged is not committed"
            )
            assert not delete_orphans_now(stack), "the writer may still commit any of them"
            proxy.faults = ()
            await wait_until_sunk(stack, clients.history)
        assert stack.problems(clients.history) == []
        orphans = stack.audit().orphans
        assert delete_orphans_now(stack) == orphans > 0
        assert stack.audit().orphans == 0
        assert stack.problems(clients.history) == []
        assert proxy.counts[Kind.ANSWER_LOST] >= 4
        record_property("fired", proxy.counts[Kind.ANSWER_LOST])
        record_property("orphans_collected", orphans)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_f19_ten_thousand_events_with_half_of_the_responses_lost(
    kafka: KafkaServer, postgres: PostgresServer, s3: S3Server, tmp_path: Path, record_property: Any
) -> None:
    bucket = s3.bucket()
    with (
        HttpProxy(port_of(bucket)) as proxy,
        stack_on(tmp_path, kafka, postgres, S3(bucket, proxy.port)) as stack,
    ):
        async with local_replica(stack) as stub:
            clients = Clients([stub], pause_seconds=0)
            proxy.faults = (HttpFault(Kind.ANSWER_LOST, Chance(0.5, seed=19)),)
            async with clients.sending():
                await wait_until(
                    lambda: len(clients.history.acknowledged) >= 10_000,
                    "ten thousand acks",
                    seconds=600,
                )
            proxy.faults = ()
            await wait_until_sunk(stack, clients.history)
        assert proxy.counts[Kind.ANSWER_LOST] >= 10
        assert stack.problems(clients.history) == []
        orphans = stack.audit().orphans
        assert f"deleted={orphans}" in await asyncio.to_thread(
            command, stack, "orphans", "--delete", "--older-than", "0s"
        )
        assert stack.problems(clients.history) == []
    record_property("fired", proxy.counts[Kind.ANSWER_LOST])
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("orphans_collected", orphans)


def command(stack: Stack, *arguments: str) -> str:
    """Run `python -m services.feedback …` successfully and return its output."""
    return subprocess.run(
        [sys.executable, "-m", "services.feedback", *arguments],
        env=variables(stack.values(0)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
