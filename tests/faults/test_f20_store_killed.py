"""F20: the S3 server is killed with -9 while objects are on their way. Half an object is never readable.

We send no multipart uploads, so there are no parts that could be left: an object is one PUT.
"""

import os
import random
import threading
import time
from collections.abc import Callable

import pytest

from infra.faults.tcp import TcpFaults, TcpProxy
from services.feedback.object_store import ObjectMissingError, ObjectStoreError
from services.feedback.s3_store import S3Place, S3Store
from tests.faults.feedback_service import FeedbackService, port_of, wait_until
from tests.servers import Bucket, S3Server

MIB = 1 << 20
KILLS = 5


def store_in(bucket: Bucket, port: int) -> S3Store:
    place = S3Place(
        f"127.0.0.1:{port}", bucket.name, "us-east-1", False, bucket.access_key, bucket.secret_key, 3.0, 30.0
    )
    return S3Store(place)


def put_until_it_fails(store: S3Store, objects: dict[str, bytes], name: Callable[[int], str]) -> str:
    """Put objects of 8 MiB. The key of the one that failed."""
    for number in range(1_000):
        key = name(number)
        objects[key] = os.urandom(8 * MIB)
        try:
            store.put(key, objects[key])
        except ObjectStoreError:
            return key
    raise AssertionError("nothing failed")


@pytest.mark.faults
def test_f20_of_an_object_that_was_on_its_way_when_the_store_was_killed_nothing_or_all_is_there(s3: S3Server) -> None:
    bucket, chance = s3.bucket(), random.Random(20)
    objects: dict[str, bytes] = {}
    unsure: set[str] = set()
    with TcpProxy(port_of(bucket)) as proxy:
        # 8 MiB take 0.4 s: most kills fall into the middle of a body.
        proxy.faults = TcpFaults(bytes_per_second=20 * MIB)
        for kill in range(KILLS):
            killer = threading.Timer(chance.uniform(0.5, 2.0), s3.kill)
            killer.start()
            unsure.add(put_until_it_fails(store_in(bucket, proxy.port), objects, lambda n, kill=kill: f"{kill}/{n}"))
            killer.join()
            s3.start()
    store, missing = store_in(bucket, port_of(bucket)), set()
    for key, data in objects.items():
        try:
            assert store.get(key) == data, f"{key} is there in part"
        except ObjectMissingError:
            missing.add(key)
    print(f"kills {KILLS}, acknowledged {len(objects) - len(unsure)}, of {len(unsure)} unsure {len(missing)} missing")
    assert missing <= unsure, "what was acknowledged is there"
    assert {found.key for found in store.list("")} == set(objects) - missing
    assert len(unsure) == KILLS


@pytest.mark.faults
def test_f20_the_sink_goes_on_when_the_store_is_back(s3: S3Server, tmp_path) -> None:
    bucket = s3.bucket()
    with FeedbackService(tmp_path, bucket, port_of(bucket)) as service:
        for _ in range(KILLS):
            sunk = service.sunk()
            with service.people_rate():
                wait_until(lambda sunk=sunk: service.sunk() > sunk)
                s3.kill()
                time.sleep(1)
            assert service.spool().end_offset > service.sunk(), "events wait for the store"
            s3.start()
            print(f"caught up {service.wait_until_sunk(seconds=60):.1f} s after the store was back")
        assert service.violations() == []
        assert service.audit().problems == []
