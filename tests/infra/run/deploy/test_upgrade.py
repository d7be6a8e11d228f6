"""Rolling upgrade of all services under load: no failed call, no lost answer.

Without the wait before termination calls do fail.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy import page
from tests.infra.run.deploy.deployed import SERVICES, TWO_REPLICAS, Deployed, annotated, rows, until
from tests.infra.run.deploy.load import Load, running_load
from tests.infra.run.deploy.models import ENDLESS, NANO_VERSION, install_endless, promote
from tests.support.errors import refused

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS, CALLS_A_SECOND = 50, 20
ROLLED = (*SERVICES, "predictor")


@pytest.fixture
def release(deployed: Deployed) -> Iterator[Deployed]:
    """Release with a promoted version whose answers take seconds."""
    deployed.install(TWO_REPLICAS, annotated("before"))
    install_endless(deployed)
    promote(deployed, ENDLESS)
    yield deployed
    promote(deployed, NANO_VERSION)
    deployed.install()


def roll(
    deployed: Deployed, *changes: Mapping[str, Any], prepare: Callable[[], object] = lambda: None
) -> Load:
    """Upgrade with load from before its start to after its end.

    Args:
        prepare: called under load before the upgrade.
    """
    before = deployed.pods(*ROLLED)
    with running_load(deployed, STREAMS, CALLS_A_SECOND) as people:
        prepare()
        deployed.install(TWO_REPLICAS, *changes)
        deployed.settle()
    assert not before.items() & deployed.pods(*ROLLED).items(), "a pod was not rolled"
    return people


def create_lost_key(deployed: Deployed, folder: Path) -> None:
    """Remove the key of the generator, as in releases without calls by the generator.

    The upgrade is refused before it changes a pod, until the commands of the operating page have
    created the key.
    """
    for secret, file in (("identity", "generator.key"), ("callers", "generator.pem")):
        patch = json.dumps({"data": {file: None}})
        deployed.kubectl(
            "patch", "secret", f"{deployed.name}-{secret}", "--type", "merge", "--patch", patch
        )
    pods = deployed.pods(*ROLLED)
    with refused(ClusterError, field="helm", reason="FAILED") as caught:
        deployed.install(TWO_REPLICAS, annotated("refused"))
    assert f"generator.key in {deployed.name}-identity" in caught.value.text
    assert deployed.pods(*ROLLED) == pods
    page.run(deployed, "create the key of a new caller", folder, deployed.values())


def check_no_losses(observed: Mapping[str, Any], record: Any) -> None:
    """Check that no call failed and no answer was lost.

    The numbers of delayed and late calls depend on the machine and are recorded.
    """
    record("late", len(observed["late"]))
    for figure in ("answers", "calls", "seconds", "least_running", "waited"):
        record(figure, round(observed[figure]))
    record("thumbs", len(observed["thumbs"]))
    record("resumed", json.dumps(observed["resumed"]))
    print(
        f"\n{ {key: len(value) if key == 'thumbs' else value for key, value in observed.items()} }"
    )
    assert (observed["failed"], observed["sent_again"]) == ([], [])
    assert observed["lost"] == []
    assert observed["least_running"] == STREAMS
    assert observed["calls"] > 0
    assert observed["answers"] > STREAMS
    assert observed["thumbs"]


@pytest.mark.long
def test_upgrade_and_rollback_lose_no_call_and_no_answer(
    release: Deployed, tmp_path: Path, record_property: Any
) -> None:
    before = rows(release.audit(), "feedback")
    prepare = partial(create_lost_key, release, tmp_path)
    upgraded = roll(release, annotated("after"), prepare=prepare).observed
    check_no_losses(upgraded, record_property)
    pods = release.pods(*ROLLED)
    with running_load(release, STREAMS, CALLS_A_SECOND) as people:
        release.helm("rollback", release.name, "--wait", "--timeout", "400s")
        release.settle()
    assert not pods.items() & release.pods(*ROLLED).items()
    check_no_losses(people.observed, record_property)
    thumbs = len({*upgraded["thumbs"], *people.observed["thumbs"]})
    until(
        "the thumbs of both are in the bucket",
        lambda: rows(release.audit(), "feedback") - before >= thumbs,
    )
    assert rows(release.audit(), "feedback") - before == thumbs


@pytest.mark.long
def test_calls_fail_without_the_wait_before_termination(
    release: Deployed, record_property: Any
) -> None:
    """Control experiment for the assertions above."""
    release.install(TWO_REPLICAS, annotated("before"), {"shutdown": {"preStopSeconds": 0}})
    release.settle()
    observed = roll(release, annotated("control"), {"shutdown": {"preStopSeconds": 0}}).observed
    print(
        f"\n{ {key: len(value) if key == 'thumbs' else value for key, value in observed.items()} }"
    )
    record_property("failed", len(observed["failed"]))
    record_property("lost", len(observed["lost"]))
    assert any(observed[figure] for figure in ("failed", "sent_again", "late", "lost"))
