"""Launches against a fake API server; tests play KubeRay during the sleeps of the launcher."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.training.launching.api_server import ApiServer, serving
from training.launching.kubernetes import KubernetesApi
from training.launching.launcher import (
    DELETED,
    GONE_SECONDS,
    NOT_TAKEN_UP,
    NOT_WRITTEN,
    NOT_YET,
    QUEUED,
    Launch,
    Launcher,
)
from training.launching.ray_job import EXITS, RAY_JOBS, RUN_LABEL

NAME, JOB = "tw-turn", "tw-training-1"
TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": NAME, "labels": {"a": "b"}},
    "spec": {},
}
DEADLINE_SECONDS = 3600.0
NO_ROOM = "Insufficient cpu"
Step = Callable[[], None]


class StatusWriter:
    """Fake that records the status."""

    def __init__(self) -> None:
        self.waited: list[str] = []
        self.ended: list[str] = []
        self.locked = False

    def waiting(self, text: str) -> None:
        self.waited.append(text)

    def failed(self, reason: str) -> bool:
        self.ended.append(reason)
        return not self.locked


class Clock:
    """Clock whose sleeps run the next step, or advance by an hour without steps."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)
        self.steps: list[Step] = []

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds if self.steps else 3600.0)
        if self.steps:
            self.steps.pop(0)()


class Stage:
    """Environment of a launcher under test."""

    def __init__(self, api: KubernetesApi, server: ApiServer) -> None:
        self.api, self.server = api, server
        self.notices, self.clock, self.said = StatusWriter(), Clock(), []
        self.template: dict[str, Any] = TEMPLATE

    def launcher(self, job: str = JOB) -> Launcher:
        turn = Launch(self.template, job, f"uid-of-{job}", DEADLINE_SECONDS)
        return Launcher(turn, self.api, self.notices, self.clock, self.said.append)

    def job(self) -> Any:
        return self.server.objects[RAY_JOBS, NAME]

    def status(self, deployment: str, job: str = "", **more: str) -> Step:
        """Add a step that sets the status of the RayJob."""

        def step() -> None:
            fields = {
                "jobDeploymentStatus": deployment,
                "jobStatus": job,
                "rayClusterName": "tw-turn-abcde",
                **more,
            }
            self.job()["status"] = fields

        return step

    def pod(self, **status: Any) -> Step:
        """Add a step that creates a head pod."""
        labels = {"ray.io/cluster": "tw-turn-abcde", "ray.io/node-type": "head"}
        return lambda: (
            self.server.put("api/v1/pods", "head", metadata={"labels": labels}, status=status)
            and None
        )

    def earlier(self, deployment: str, job: str = "", turn: str = "tw-training-0") -> None:
        """Create a RayJob of an earlier run."""
        self.server.put(RAY_JOBS, NAME, metadata={"labels": {RUN_LABEL: turn}}, spec={})
        self.status(deployment, job)()

    def made(self) -> int:
        return self.server.calls.count("POST rayjobs")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    server = ApiServer()
    with serving(server, tmp_path) as place:
        yield Stage(KubernetesApi(place), server)


def no_room() -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "message": NO_ROOM}]}


def test_run_is_created_with_its_owner_and_awaited(stage: Stage) -> None:
    stage.clock.steps = [
        stage.status("Initializing"),
        stage.status("Running", "RUNNING"),
        stage.status("Complete", "SUCCEEDED"),
    ]
    assert stage.launcher().run()
    about = stage.job()["metadata"]
    assert about["labels"] == {"a": "b", RUN_LABEL: JOB}
    assert about["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": f"uid-of-{JOB}"},
    ]
    assert stage.notices.waited[0] == NOT_YET
    assert stage.notices.ended == []


def test_operator_that_does_not_know_a_field_gets_no_run(stage: Stage) -> None:
    """Finding S-12: an operator before 1.5.1 would start a cluster without authentication."""
    stage.template = {**TEMPLATE, "spec": {"authOptions": {"mode": "token"}}}
    stage.server.unknown_fields = frozenset({"authOptions"})
    assert not stage.launcher().run()
    assert (RAY_JOBS, NAME) not in stage.server.objects
    (reason,) = stage.notices.ended
    assert "authOptions" in reason


def test_run_of_a_killed_launcher_is_adopted(stage: Stage) -> None:
    stage.earlier("Running", "RUNNING", turn=JOB)
    stage.clock.steps = [stage.status("Complete", "SUCCEEDED")]
    assert stage.launcher().run()
    assert stage.made() == 0
    assert stage.notices.waited == [], "the turn tells of itself"


def test_result_of_an_ended_run_is_reported_without_a_new_one(stage: Stage) -> None:
    stage.earlier("Failed", "FAILED", turn=JOB)
    assert not stage.launcher().run()
    assert stage.made() == 0


def test_active_run_of_another_job_is_adopted(
    stage: Stage,
) -> None:
    stage.earlier("Running", "RUNNING")
    stage.clock.steps = [stage.status("Complete", "SUCCEEDED")]
    assert stage.launcher("by-hand").run()
    assert stage.made() == 0


def test_run_created_concurrently_is_adopted(stage: Stage) -> None:
    looks = iter([None])

    class Late(KubernetesApi):
        def read(self, kind: str, name: str) -> Any:
            return next(looks, stage.server.objects.get((kind, name)))

    stage.api = Late(stage.api._target)
    stage.earlier("Running", "RUNNING")
    stage.clock.steps = [stage.status("Complete", "SUCCEEDED")]
    assert stage.launcher("by-hand").run()
    assert stage.made() == 1
    assert stage.job()["metadata"]["labels"][RUN_LABEL] == "tw-training-0"


@pytest.mark.parametrize("deployment", ["Complete", "Failed", "ValidationFailed"])
def test_ended_run_is_replaced(stage: Stage, deployment: str) -> None:
    stage.earlier(deployment)
    stage.clock.steps = [stage.status("Complete", "SUCCEEDED")]
    assert stage.launcher().run()
    assert stage.job()["metadata"]["labels"][RUN_LABEL] == JOB


def test_deletion_of_a_run_is_awaited(stage: Stage) -> None:
    stage.earlier("Running", "RUNNING")
    stage.job()["metadata"]["deletionTimestamp"] = "2026-11-25T00:00:00Z"
    stage.clock.steps = [
        lambda: None,
        lambda: stage.server.objects.clear(),
        stage.status("Complete", "SUCCEEDED"),
    ]
    assert stage.launcher().run()
    assert stage.made() == 1


def test_run_that_is_never_deleted_is_a_failure(stage: Stage) -> None:
    stage.earlier("Running", "RUNNING")
    stage.job()["metadata"]["deletionTimestamp"] = "2026-11-25T00:00:00Z"
    assert not stage.launcher().run()
    (reason,) = stage.notices.ended
    assert f"{GONE_SECONDS:.0f}" in reason


def test_run_past_its_deadline_is_deleted_with_its_start_failure(stage: Stage) -> None:
    stage.clock.steps = [stage.status("Initializing"), stage.pod(**no_room()), lambda: None]
    assert not stage.launcher().run()
    assert (RAY_JOBS, NAME) not in stage.server.objects
    assert [text for text in stage.notices.waited if NO_ROOM in text]
    (reason,) = stage.notices.ended
    assert "3600" in reason
    assert NO_ROOM in reason


def test_missing_volume_is_reported_from_node_events(stage: Stage) -> None:
    conditions = {"PodScheduled": "True", "PodReadyToStartContainers": "False"}
    stuck = [{"type": name, "status": status} for name, status in conditions.items()]
    noted = {
        "reason": "FailedMount",
        "message": 'configmap "nowhere" not found',
        "lastTimestamp": "2026",
    }
    stage.server.put(
        "api/v1/events", "head.1", involvedObject={"kind": "Pod", "name": "head"}, **noted
    )
    stage.server.put(
        "api/v1/events", "other.1", involvedObject={"kind": "Pod", "name": "other"}, **noted
    )
    stage.clock.steps = [stage.status("Initializing"), stage.pod(conditions=stuck), lambda: None]
    assert not stage.launcher().run()
    (line,) = {text for text in stage.notices.waited if noted["message"] in text}
    assert "head" in line
    (reason,) = stage.notices.ended
    assert "3600" in reason
    assert noted["message"] in reason


def test_run_ended_by_kuberay_at_its_deadline_is_deleted_too(
    stage: Stage,
) -> None:
    stage.clock.steps = [
        stage.status("Initializing"),
        stage.pod(**no_room()),
        lambda: None,
        stage.status(
            "Failed",
            reason="DeadlineExceeded",
            message="The RayJob has passed the activeDeadlineSeconds",
        ),
        lambda: None,
    ]
    assert not stage.launcher().run()
    assert (RAY_JOBS, NAME) not in stage.server.objects
    (reason,) = stage.notices.ended
    assert "3600" in reason
    assert NO_ROOM in reason


def test_deadline_of_an_adopted_run_counts_from_its_creation(stage: Stage) -> None:
    stage.earlier("Running", "RUNNING", turn=JOB)
    stage.job()["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert not stage.launcher().run()
    (reason,) = stage.notices.ended
    assert "3600" in reason
    assert not [text for text in (QUEUED, NOT_TAKEN_UP) if text in reason]


def test_overcome_start_failures_do_not_explain_the_end(stage: Stage) -> None:
    stage.clock.steps = [
        stage.status("Initializing"),
        stage.pod(**no_room()),
        lambda: (stage.pod(conditions=[])(), stage.status("Running", "RUNNING")())[0],
        stage.status(
            "Failed",
            "FAILED",
            reason="AppFailed",
            message="command failed with exit code 1, last logs: secret",
        ),
    ]
    assert not stage.launcher().run()
    assert stage.notices.ended == [EXITS[1]]


@pytest.mark.parametrize(
    ("deployment", "fields", "named"),
    [
        (
            "ValidationFailed",
            {"reason": "ValidationFailed", "message": "wrong name"},
            ["ValidationFailed", "wrong name"],
        ),
        (
            "Failed",
            {"reason": "SubmissionFailed", "message": "Job submission has failed.\nReason: x"},
            ["SubmissionFailed", "Job submission has failed. Reason: x"],
        ),
        ("Failed", {"message": "entrypoint failed with exit code 3, last"}, [EXITS[3]]),
        ("Failed", {"message": "entrypoint failed with exit code 7, last"}, ["7"]),
        ("Failed", {}, ["Failed"]),
    ],
)
def test_every_failure_has_a_description(
    stage: Stage, deployment: str, fields: dict[str, str], named: list[str]
) -> None:
    stage.clock.steps = [stage.status(deployment, **fields)]
    assert not stage.launcher().run()
    (reason,) = stage.notices.ended
    assert [word for word in named if word not in reason] == []
    assert "last" not in reason  # the log of the program is not reported


def test_missing_operator_and_queue_are_reported_until_resolved(stage: Stage) -> None:
    def queued() -> None:
        stage.status("Suspended")()
        stage.job()["spec"]["suspend"] = True

    def admitted() -> None:
        stage.job()["spec"]["suspend"] = False
        stage.status("Initializing")()

    stage.clock.steps = [*[lambda: None] * 6, queued, admitted, stage.status("Failed", reason="x")]
    assert not stage.launcher().run()
    wanted = [NOT_YET, f"waiting for: {NOT_TAKEN_UP}", f"waiting for: {QUEUED}", NOT_YET]
    assert stage.notices.waited == wanted
    assert stage.notices.ended == ["x"]


def test_status_is_renewed_periodically(stage: Stage) -> None:
    stage.clock.steps = [
        stage.status("Initializing"),
        *[lambda: None] * 30,
        stage.status("Complete", "SUCCEEDED"),
    ]
    assert stage.launcher().run()
    assert 3 <= len(stage.notices.waited) <= 5
    assert stage.said.count(NOT_YET) == 1


def test_unavailable_api_server_does_not_end_the_run(stage: Stage) -> None:
    away = [(503, "not now")] * 3
    stage.server.refusals = list(away)
    stage.clock.steps = [
        *[lambda: None] * 3,
        stage.status("Running", "RUNNING"),
        lambda: stage.server.refusals.extend(away),
        *[lambda: None] * 3,
        stage.status("Complete", "SUCCEEDED"),
    ]
    assert stage.launcher().run()
    assert stage.made() == 1


def test_error_of_the_api_server_is_the_reason(stage: Stage) -> None:
    stage.server.refusals = [(403, "rayjobs is forbidden")]
    assert not stage.launcher().run()
    (reason,) = stage.notices.ended
    for named in ("GET", "403", "rayjobs is forbidden"):
        assert named in reason


def test_unreadable_pods_do_not_end_the_run(stage: Stage) -> None:
    stage.clock.steps = [
        stage.status("Initializing"),
        lambda: None,
        stage.status("Complete", "SUCCEEDED"),
    ]

    class Blind(KubernetesApi):
        def select(self, kind: str, labels: str) -> Any:
            stage.server.refusals.append((403, "pods is forbidden"))
            return super().select(kind, labels)

    stage.api = Blind(stage.api._target)
    assert stage.launcher().run()
    assert [text for text in stage.said if "pods is forbidden" in text]


def test_deleted_run_has_failed(stage: Stage) -> None:
    stage.clock.steps = [stage.status("Running", "RUNNING"), lambda: stage.server.objects.clear()]
    assert not stage.launcher().run()
    assert stage.notices.ended == [DELETED]


def test_unwritten_status_is_logged(stage: Stage) -> None:
    stage.notices.locked = True
    stage.clock.steps = [stage.status("Failed")]
    assert not stage.launcher().run()
    assert NOT_WRITTEN in stage.said


def test_template_of_the_chart_is_not_modified(stage: Stage) -> None:
    before = json.dumps(TEMPLATE)
    stage.clock.steps = [stage.status("Complete", "SUCCEEDED")]
    stage.launcher().run()
    assert json.dumps(TEMPLATE) == before
