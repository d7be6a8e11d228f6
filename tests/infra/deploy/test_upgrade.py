"""Every service is rolled while people chat: no call fails and no answer is lost; without the wait
before the end some are.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.infra.deploy.deployed import SERVICES, Deployed, rows, until
from tests.infra.deploy.models import ENDLESS, NANO_VERSION, promote, put_endless
from tests.infra.deploy.people import People, chatting

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS, CALLS_A_SECOND = 50, 20
ROLLED = (*SERVICES, "predictor")
# Two of what holds state for others, as in production; of the rest the new one comes before the old
# one goes. A model server with little of a processor writes slowly: answers run while pods go, and
# two cores hold all of it.
TWO = {
    "services": {
        "gateway": {"replicas": 2, "settings": {"coalesce_seconds": 0.25}},
        "feedback": {"replicas": 2},
    },
    "serving": {"predictor": {"resources": {"limits": {"cpu": "250m"}}}},
}


def noted(text: str) -> dict[str, Any]:
    """Every pod is another one when this changes."""
    note = {"podAnnotations": {"note": text}}
    return {"serviceDefaults": note, "serving": {"predictor": note}}


@pytest.fixture
def two(deployed: Deployed) -> Iterator[Deployed]:
    """With a version that training has promoted, whose answers take seconds."""
    deployed.install(TWO, noted("before"))
    put_endless(deployed)
    promote(deployed, ENDLESS)
    yield deployed
    promote(deployed, NANO_VERSION)
    deployed.install()


def roll(deployed: Deployed, *changes: Mapping[str, Any]) -> People:
    """The upgrade, with people on it from before its begin to after its end."""
    before = deployed.pods(*ROLLED)
    with chatting(deployed, STREAMS, CALLS_A_SECOND) as people:
        deployed.install(TWO, *changes)
        deployed.settle()
    assert not before.items() & deployed.pods(*ROLLED).items(), "a pod was not rolled"
    return people


def check_whole(told: Mapping[str, Any], record: Any) -> None:
    """No call failed and no answer was lost. How many had to wait or came late depends on the
    machine: both are recorded.
    """
    record("late", len(told["late"]))
    for figure in ("answers", "calls", "seconds", "least_running", "waited"):
        record(figure, round(told[figure]))
    record("thumbs", len(told["thumbs"]))
    record("resumed", json.dumps(told["resumed"]))
    print(f"\n{ {key: len(value) if key == 'thumbs' else value for key, value in told.items()} }")
    assert told["failed"] == []
    assert told["lost"] == []
    assert told["least_running"] == STREAMS
    assert told["calls"] > 0
    assert told["answers"] > STREAMS
    assert told["thumbs"]


@pytest.mark.long
def test_an_upgrade_and_its_rollback_fail_no_call_and_lose_no_answer(
    two: Deployed, record_property: Any
) -> None:
    before = rows(two.audit(), "feedback")
    upgraded = roll(two, noted("after")).told
    check_whole(upgraded, record_property)
    pods = two.pods(*ROLLED)
    with chatting(two, STREAMS, CALLS_A_SECOND) as people:
        two.helm("rollback", two.name, "--wait", "--timeout", "400s")
        two.settle()
    assert not pods.items() & two.pods(*ROLLED).items()
    check_whole(people.told, record_property)
    thumbs = len({*upgraded["thumbs"], *people.told["thumbs"]})
    until(
        "the thumbs of both are in the bucket",
        lambda: rows(two.audit(), "feedback") - before >= thumbs,
    )
    assert rows(two.audit(), "feedback") - before == thumbs


@pytest.mark.long
def test_without_the_wait_before_the_end_calls_fail(two: Deployed, record_property: Any) -> None:
    """The control: what is asserted above can fail."""
    two.install(TWO, noted("before"), {"shutdown": {"preStopSeconds": 0}})
    two.settle()
    told = roll(two, noted("control"), {"shutdown": {"preStopSeconds": 0}}).told
    print(f"\n{ {key: len(value) if key == 'thumbs' else value for key, value in told.items()} }")
    record_property("failed", len(told["failed"]))
    record_property("lost", len(told["lost"]))
    assert told["failed"] or told["late"] or told["lost"]
