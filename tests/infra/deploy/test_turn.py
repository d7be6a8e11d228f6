"""One turn of the loop as a Job on a real cluster: thumbs go in at the door, and at the end a
version that learned from them answers.
"""

import json
import re
from collections.abc import Iterator

import pytest

from tests.infra.deploy.clusters import deployed_cluster
from tests.infra.deploy.deployed import rows, until
from tests.infra.deploy.raters import THUMBS, keys, people_rate, people_rate_while
from tests.infra.deploy.turns import TRAINING, Turns

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]
# As for a machine that others use too.
DEPLOY_SECONDS, FILL_SECONDS, STEP_SECONDS, TURN_SECONDS = 1800.0, 900.0, 300.0, 1500.0


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turns]:
    """A cluster of its own, where a turn is one pod, of the image that others get: here alone it is
    loaded whole.
    """
    state = tmp_path_factory.mktemp("turn") / "cluster"
    words = ("--training", "local", "--whole")
    with deployed_cluster(
        state, "a turn is not tried on a real cluster", *words, seconds=DEPLOY_SECONDS
    ) as deployed:
        yield Turns(deployed)


@pytest.mark.long
def test_too_little_feedback_is_said_and_is_no_failure(turns: Turns) -> None:
    turns.begin("turn-0")
    assert turns.wait_ended("turn-0", STEP_SECONDS) == "Complete"
    assert turns.shown()["result"] == "not_enough_feedback"
    assert turns.shown()["needed_thumbs"] == 200


@pytest.mark.long
def test_thumbs_become_a_version_that_is_tried_promoted_and_answers(turns: Turns) -> None:
    """The pod that trains dies in the middle, and somebody asks for a second turn."""
    people = keys(turns.deployed)
    given = people_rate(turns.deployed, people, THUMBS, FILL_SECONDS)
    assert given.thumbs == THUMBS
    until(
        "all is in the bucket",
        lambda: rows(turns.deployed.audit(), "feedback") >= given.events,
        STEP_SECONDS,
    )
    turns.begin("turn-1")
    its_pod_dies(turns)
    a_second_one_is_refused(turns)
    # Nobody's thumbs are needed before.
    until(
        "the canary begins",
        lambda: turns.shown().get("step") == "canary" or bool(turns.ended("turn-1")),
        TURN_SECONDS,
    )
    trial = people_rate_while(
        turns.deployed, people, lambda: not turns.ended("turn-1"), TURN_SECONDS
    )
    assert turns.wait_ended("turn-1", STEP_SECONDS) == "Complete"
    status = turns.shown()
    assert (status["run"], status["result"]) == ("nano-1", "promoted"), json.dumps(status, indent=1)
    assert [step["state"] for step in status["steps"]] == ["done"] * len(status["steps"])
    assert "resumed with" in status["steps"][0]["detail"]
    assert trial.by_version.get("nano-1", 0) > 0
    assert turns.result("promoted")
    assert turns.answering_version() == "nano-1"


def its_pod_dies(turns: Turns) -> None:
    """Without a word: the next one waits for the lock, and goes on."""
    until("it trains", lambda: turns.shown().get("step") in TRAINING, TURN_SECONDS)
    (pod,) = turns.pods_of("turn-1")
    turns.deployed.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    until(
        "the next one has taken it up", lambda: "resumed with" in turns.log("turn-1"), STEP_SECONDS
    )


def a_second_one_is_refused(turns: Turns) -> None:
    """In one line, and is not tried again."""
    turns.begin("turn-2", "--patience", "1s")
    assert turns.wait_ended("turn-2", STEP_SECONDS) == "Failed"
    assert re.search(r"\b1\b.*\bnano\b.*\b20\d\d-", turns.log("turn-2")), (
        "which process and recipe, and since when"
    )
    assert len(turns.pods_of("turn-2")) == 1
