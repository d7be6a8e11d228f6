"""F19: the PUT is done and its answer lost. The batch goes again under another name; what it left is counted and collected."""

import time

import pytest

from infra.faults.chance import Chance
from infra.faults.http import HttpFault, HttpProxy, Kind
from services.feedback.orphans import delete_orphans, find_orphans
from tests.faults.feedback_service import STREAM, FeedbackService, port_of, wait_until
from tests.servers import S3Server

ANSWER_LOST = HttpFault(Kind.ANSWER_LOST, methods=frozenset({"PUT"}))


def collected(service: FeedbackService) -> int:
    """How many orphans went, of those that are as young as they can be."""
    orphans = find_orphans(service.ledger, service.store, STREAM)
    return sum(1 for _ in delete_orphans(service.store, orphans, before_us=time.time_ns() // 1_000 + 1_000_000))


@pytest.mark.slow
def test_f19_a_put_whose_answer_is_lost_makes_no_duplicate_and_its_orphan_is_collected(s3: S3Server, tmp_path) -> None:
    bucket = s3.bucket()
    with HttpProxy(port_of(bucket)) as proxy, FeedbackService(tmp_path, bucket, proxy.port) as service:
        proxy.faults = (ANSWER_LOST,)
        with service.people_rate(pause_seconds=0.005):
            # The batch grows while it fails: each time it has another name.
            wait_until(lambda: len(list(service.store.list(f"{STREAM}/"))) >= 3)
        lost = proxy.counts[Kind.ANSWER_LOST]
        assert lost >= 3
        assert service.sunk() == 0, "an object that was not acknowledged is not committed"
        assert not collected(service), "the writer may still commit any of them"
        proxy.faults = ()
        service.wait_until_sunk(seconds=60)
        assert service.violations() == []

        orphans = service.audit().orphans
        print(f"answers lost {lost}, orphans {orphans}")
        assert collected(service) == orphans > 0
        assert service.audit().orphans == 0
        assert service.violations() == []


@pytest.mark.faults
def test_f19_ten_thousand_events_while_every_other_answer_is_lost(s3: S3Server, tmp_path) -> None:
    bucket = s3.bucket()
    with HttpProxy(port_of(bucket)) as proxy, FeedbackService(tmp_path, bucket, proxy.port) as service:
        proxy.faults = (HttpFault(Kind.ANSWER_LOST, Chance(0.5, seed=19)),)
        with service.people_rate():
            wait_until(lambda: len(service.history.acknowledged) >= 10_000, seconds=240)
            time.sleep(1)
        proxy.faults = ()
        service.wait_until_sunk(seconds=60)
        assert proxy.counts[Kind.ANSWER_LOST] >= 10
        assert service.violations() == []
        orphans = service.audit().orphans
        print(f"answers lost {proxy.counts[Kind.ANSWER_LOST]}, orphans {orphans}")
        assert f"deleted={orphans}" in service.command("orphans", "--delete", "--older-than", "0s")
        assert service.violations() == []
