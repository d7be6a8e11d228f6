"""Statuses follow KServe's rules and are interpreted by the generator; both are tested together."""

from typing import Any

import pytest

from infra.simulate.kserve.status import NO_RUNTIME, reconcile_failed, status_of
from services.generator.kubernetes.inference_object import Observed, observe
from tests.infra.simulate.kserve.deployments import (
    AVAILABLE,
    BEGINNING,
    FALLEN,
    KEPT_DOWN,
    LATE,
    REFUSED,
    RUNNING,
    deployment,
    service,
)
from tests.kserve_models import round_trip

CASES: dict[str, Any] = {
    "nothing yet": status_of(service(), deployment(), []),
    "beginning": status_of(service(), BEGINNING, [RUNNING]),
    "ready": status_of(service(), AVAILABLE, [RUNNING]),
    "late": status_of(service(), LATE, [RUNNING]),
    "refused": status_of(service(), REFUSED, []),
    "fallen": status_of(service(), BEGINNING, [FALLEN]),
    "kept down": status_of(service(), BEGINNING, [KEPT_DOWN, RUNNING]),
    "no runtime": NO_RUNTIME,
    "not made": reconcile_failed("no such claim"),
}


def seen(case: str) -> Observed:
    return observe(service() | {"status": CASES[case]}, 0)


@pytest.mark.parametrize("case", CASES)
def test_status_equals_that_of_kserve(case: str) -> None:
    assert round_trip(CASES[case], "V1beta1InferenceServiceStatus") == CASES[case]


def test_available_service_is_ready() -> None:
    ready = [
        case
        for case in CASES
        if {each["status"] for each in CASES[case].get("conditions", [{"status": ""}])} == {"True"}
    ]
    assert ready == ["ready"]


def test_url_is_that_of_the_service() -> None:
    name = service()["metadata"]["name"]
    assert (
        seen("ready").url
        == seen("beginning").url
        == f"http://{name}-predictor.chat.svc.cluster.local"
    )
    assert seen("no runtime").url == ""


def test_only_permanent_errors_are_failures() -> None:
    failures = {case: seen(case).failure for case in CASES if seen(case).failure}
    assert failures == {
        "refused": "FailedCreate: FailedCreate!",
        "fallen": "ModelLoadFailed: v1: config.json is missing",
        "kept down": "ModelLoadFailed: v1: config.json is missing",
        "no runtime": "RuntimeNotRecognized: Waiting for runtime to become available",
        "not made": "ReconcileFailed: no such claim",
    }


def test_reason_of_waiting_is_reported() -> None:
    assert "MinimumReplicasUnavailable" in seen("beginning").waiting_reason
    # A Deployment past its deadline is also unavailable, and KServe reports this condition last.
    assert "MinimumReplicasUnavailable" in seen("late").waiting_reason
    assert seen("ready").waiting_reason not in ("", seen("nothing yet").waiting_reason)
    assert "MinimumReplicasUnavailable" not in seen("ready").waiting_reason


def test_other_port_is_that_of_the_pods() -> None:
    assert observe(service() | {"status": CASES["ready"]}, 8000).url.endswith(
        ".svc.cluster.local:8000"
    )
