"""F18: the S3 store is busy, throttles, is slow, cuts bodies, hangs. Acks go on, Parquet waits, and nothing is lost or twice."""

import time
from collections.abc import Iterator

import pytest

from infra.faults.chance import Chance
from infra.faults.http import HttpFault, HttpProxy, Kind
from tests.faults.feedback_service import FeedbackService, port_of, wait_until
from tests.servers import S3Server

TROUBLE = {
    "busy": HttpFault(Kind.STATUS, status=503),
    "throttled": HttpFault(Kind.STATUS, status=429, retry_after_seconds=1),
    "late": HttpFault(Kind.SLOW, seconds=0.8),
    "bodies cut": HttpFault(Kind.REQUEST_RESET, body_bytes=500),
    "answers lost": HttpFault(Kind.ANSWER_LOST, Chance(0.7, seed=18)),
    "hanging": HttpFault(Kind.HANG),
}
# What these delay; the others let nothing through.
LETS_THROUGH = ("late", "answers lost")
MIB = 1 << 20


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[HttpProxy]:
    with HttpProxy(port_of(s3.bucket())) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def service(s3: S3Server, proxy: HttpProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackService]:
    """Started while its store is away."""
    proxy.faults = (TROUBLE["busy"],)
    with FeedbackService(tmp_path_factory.mktemp("f18"), s3.bucket(), proxy.port) as service:
        yield service


def test_f18_a_store_that_is_away_at_the_start_does_not_stop_the_start(
    service: FeedbackService, proxy: HttpProxy
) -> None:
    assert proxy.counts[Kind.STATUS], "the self-test has met the fault"
    assert "object store is away" in service.said()
    with service.people_rate(pause_seconds=0.01):
        time.sleep(0.5)
    assert service.sunk() == 0
    proxy.faults = ()
    service.wait_until_sunk(seconds=60)
    assert service.violations() == []


@pytest.mark.parametrize("trouble", TROUBLE)
def test_f18_trouble_in_the_store_delays_parquet_and_loses_nothing(
    service: FeedbackService, proxy: HttpProxy, trouble: str
) -> None:
    fault, acknowledged, sunk = TROUBLE[trouble], len(service.history.acknowledged), service.sunk()
    struck = proxy.counts[fault.kind]
    proxy.faults = (fault,)
    with service.people_rate(pause_seconds=0.002):
        wait_until(lambda: proxy.counts[fault.kind] > struck)
        # The ack does not wait for the store.
        wait_until(lambda: len(service.history.acknowledged) > acknowledged + 200)
    if trouble not in LETS_THROUGH:
        assert service.sunk() == sunk, "nothing can have been committed"
    proxy.faults = ()
    service.wait_until_sunk(seconds=60)
    assert service.violations() == []
    assert service.audit().problems == []


@pytest.mark.faults
@pytest.mark.parametrize("trouble", TROUBLE)
def test_f18_half_a_minute_of_trouble_keeps_memory_bounded(
    s3: S3Server, tmp_path, record_property, trouble: str
) -> None:
    """The backlog is many times what the service may hold: it lies in the spool."""
    bucket = s3.bucket()
    with HttpProxy(port_of(bucket)) as proxy, FeedbackService(tmp_path, bucket, proxy.port) as service:
        with service.people_rate(text_bytes=8_000):
            time.sleep(2)
        service.wait_until_sunk(seconds=60)
        before = service.most_resident_bytes()
        proxy.faults = (TROUBLE[trouble],)
        with service.people_rate(text_bytes=8_000):
            time.sleep(30)
            wait_until(lambda: len(service.history.acknowledged) >= 10_000, seconds=120)
        backlog = service.spool().end_offset - service.sunk()
        grown = service.most_resident_bytes() - before
        proxy.faults = ()
        catch_up = service.wait_until_sunk(seconds=120)
        grown_after = service.most_resident_bytes() - before
        figures = {
            "struck": proxy.counts[TROUBLE[trouble].kind],
            "acknowledged": len(service.history.acknowledged),
            "backlog": backlog,
            "grown_mib": round(grown / MIB, 1),
            "grown_after_mib": round(grown_after / MIB, 1),
            "catch_up_seconds": round(catch_up, 1),
        }
        print(trouble, figures)
        for name, value in figures.items():
            record_property(name, value)
        assert proxy.counts[TROUBLE[trouble].kind]
        assert service.violations() == []
        assert grown_after < 64 * MIB
