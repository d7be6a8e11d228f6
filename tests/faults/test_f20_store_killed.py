"""F20: the S3 server is killed with SIGKILL during PUTs.

A partial object is never readable. The service sends no multipart uploads, so no parts can remain;
an object is a single PUT.
"""

import asyncio
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.simulate.faults.tcp import TcpFaults, TcpProxy
from services.feedback.lake.object_store import ObjectMissingError, ObjectStoreError
from services.feedback.lake.s3_store import S3Location, S3Store
from tests.faults.feedback import (
    S3,
    Clients,
    local_replica,
    port_of,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.servers import Bucket, KafkaServer, PostgresServer, S3Server

MIB = 1 << 20
KILLS = 5


def store_in(bucket: Bucket, port: int) -> S3Store:
    place = S3Location(
        f"127.0.0.1:{port}",
        bucket.name,
        "us-east-1",
        False,
        bucket.access_key,
        bucket.secret_key,
        3.0,
        30.0,
    )
    return S3Store(place)


def put_until_it_fails(
    store: S3Store, objects: dict[str, bytes], name: Callable[[int], str]
) -> str:
    """Put objects of 8 MiB until a failure and return the key of the failed put."""
    for number in range(1_000):
        key = name(number)
        objects[key] = os.urandom(8 * MIB)
        try:
            store.put(key, objects[key])
        except ObjectStoreError:
            return key
    raise AssertionError("nothing failed")


@pytest.mark.long
def test_f20_a_put_interrupted_by_a_kill_is_atomic(s3: S3Server, record_property: Any) -> None:
    bucket, chance = s3.bucket(), random.Random(20)
    objects: dict[str, bytes] = {}
    unsure: set[str] = set()
    with TcpProxy(port_of(bucket)) as proxy:
        # An object of 8 MiB takes 0.4 s, so most kills fall into a body.
        proxy.faults = TcpFaults(bytes_per_second=20 * MIB)
        for kill in range(KILLS):
            killer = threading.Timer(chance.uniform(0.5, 2.0), s3.kill)
            killer.start()
            unsure.add(
                put_until_it_fails(
                    store_in(bucket, proxy.port), objects, lambda n, kill=kill: f"{kill}/{n}"
                )
            )
            killer.join()
            s3.start()
    store, missing = store_in(bucket, port_of(bucket)), set()
    for key, data in objects.items():
        try:
            assert store.get(key) == data, f"{key} is there in part"
        except ObjectMissingError:
            missing.add(key)
    record_property("fired", KILLS)
    record_property("objects_acknowledged", len(objects) - len(unsure))
    record_property("unacknowledged_and_missing", len(missing))
    assert missing <= unsure, "what was acknowledged is there"
    assert {found.key for found in store.list("")} == set(objects) - missing
    assert len(unsure) == KILLS


@pytest.mark.long
async def test_f20_the_sink_continues_when_the_store_returns(
    s3: S3Server, kafka: KafkaServer, postgres: PostgresServer, tmp_path: Path, record_property: Any
) -> None:
    bucket, caught_up = s3.bucket(), []
    with stack_on(tmp_path, kafka, postgres, S3(bucket, port_of(bucket))) as stack:
        async with local_replica(stack) as stub:
            clients = Clients([stub])
            for _ in range(KILLS):
                sunk = sum(stack.committed().values())
                async with clients.sending():
                    await wait_until(
                        lambda sunk=sunk: sum(stack.committed().values()) > sunk, "the sink"
                    )
                    s3.kill()
                    await asyncio.sleep(1)
                assert stack.waiting() > 0, "events wait for the store"
                await asyncio.to_thread(s3.start)
                caught_up.append(round(await wait_until_sunk(stack, clients.history), 1))
        assert clients.retries == 0
        assert stack.problems(clients.history) == []
    record_property("fired", KILLS)
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("caught_up_seconds", caught_up)
