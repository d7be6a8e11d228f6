"""InferenceServices for versions, with a fake Kubernetes API and fake model servers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.chassis.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.generator.answering.model_server import SILENT_REASON
from services.generator.kubernetes import inference_services
from services.generator.kubernetes.api import (
    NoServiceAccountError,
    open_kubernetes_api,
    read_namespace,
)
from tests.kserve_models import round_trip
from tests.services.generator.fake_kubernetes import (
    CONFIG_MAP,
    FakeKubernetes,
    blocked,
    kubernetes_api,
    not_ready,
    ready,
)
from tests.services.generator.kubernetes.world import World, world_of
from tests.support.errors import refused


@pytest.mark.parametrize(
    "status", [ready("http://v1.chat.svc.cluster.local"), not_ready("x", "y"), blocked("x", "y")]
)
def test_the_statuses_of_these_tests_match_the_models_of_kserve(status: Any) -> None:
    assert round_trip(status, "V1beta1InferenceServiceStatus") == status


async def test_a_version_is_loaded_when_it_answers_at_the_address_of_its_status(
    world: World,
) -> None:
    assert await world.services.index() == {}
    task = await world.begin("v1")
    assert await world.services.index() == {"v1": False}
    await world.serve("v1")
    await task
    assert await world.services.index() == {"v1": True}
    assert await world.answer("v1") == "Hello there."


async def test_the_object_is_the_template_with_version_folder_name_and_owner(world: World) -> None:
    await world.begin("nano-1.2", "/models/runs/nano-1")
    (applied,) = world.kubernetes.applied
    assert applied["spec"]["predictor"]["model"] == {
        "storageUri": "pvc://models/runs/nano-1",
        "args": ["--name=nano-1.2"],
    }
    metadata = applied["metadata"]
    assert metadata["name"].startswith("tw-thumbwheel-nano-1-2-")
    assert "generateName" not in metadata
    assert metadata["annotations"]["given"] == "here"
    assert metadata["ownerReferences"][0]["uid"] == "owner-1"


async def test_each_version_answers_from_its_own_server(world: World) -> None:
    first, second = await world.load("v1"), await world.load("v2")
    first.script, second.script = ["one"], ["two"]
    assert await world.services.index() == {"v1": True, "v2": True}
    assert [await world.answer(version) for version in ("v1", "v2")] == ["one", "two"]
    assert [server.requests[0]["model"] for server in (first, second)] == ["v1", "v2"]


async def test_an_unserved_version_is_not_found(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.answer("v1")


async def test_a_ready_object_without_an_answering_server_is_not_served(world: World) -> None:
    predictor = await world.load("v1")
    predictor.states["v1"] = "LOADING"
    predictor.models_answer = False
    assert await world.services.index() == {"v1": False}
    predictor.models_answer = True
    predictor.states = {"other": "READY"}
    assert await world.services.index() == {"v1": False}, "the server has another version"


@pytest.mark.parametrize("status", ["Unknown", "False"])
async def test_an_answering_version_is_served_while_kserve_replaces_pods(
    world: World, status: str
) -> None:
    await world.load("v1")
    found = world.kubernetes.of_version("v1")
    found["status"] |= not_ready("ReplicaSetUpdated", status=status)
    assert await world.services.index() == {"v1": True}
    assert await world.answer("v1") == "Hello there."


async def test_versions_are_probed_while_the_kubernetes_api_is_unavailable(
    world: World,
) -> None:
    first, second = await world.load("v1"), await world.load("v2")
    await world.services.index()
    world.kubernetes.refusal = (503, "etcd is unavailable")
    second.models_answer = False
    assert await world.services.index() == {"v1": True, "v2": False}
    assert up() == 0
    assert await world.answer("v1") == "Hello there."
    world.kubernetes.refusal = None
    first.models_answer, second.models_answer = False, True
    assert await world.services.index() == {"v1": False, "v2": True}
    assert up() == 1


def up() -> float | None:
    return REGISTRY.get_sample_value("thumbwheel_kubernetes_up", {"objects": "inferenceservices"})


async def test_additional_labels_of_the_chart_do_not_change_ownership(
    world: World,
) -> None:
    await world.load("v1")
    world.kubernetes.template["metadata"]["labels"]["team"] = "chat"
    fresh = world.another()
    assert await fresh.index() == {"v1": True}
    assert world.kubernetes.of_version("v1")["metadata"]["labels"]["team"] == "chat", (
        "inference service updated"
    )
    await fresh.load("v1", "/models/v1")


async def test_a_version_that_streams_answers_counts_as_busy(world: World) -> None:
    predictor = await world.load("v1")
    predictor.script, predictor.pace_seconds = ["word "] * 2_000, 0.01
    assert await world.services.index() == {"v1": True}
    answering = asyncio.create_task(world.answer("v1"))
    while not predictor.counters.words:
        await asyncio.sleep(0.01)
    predictor.models_hang = True
    assert await world.services.index() == {"v1": True}
    answering.cancel()
    assert await world.services.index() == {"v1": False}
    predictor.models_hang = False
    assert await world.services.index() == {"v1": True}


async def test_an_answer_from_a_hanging_server_fails(world: World) -> None:
    predictor = await world.load("v1")
    await world.services.index()
    predictor.silent_after = 0
    waiting = asyncio.create_task(world.answer("v1"))
    while not predictor.requests:
        await asyncio.sleep(0.01)
    predictor.models_hang = True
    with refused(UnavailableError, reason=SILENT_REASON):
        async with asyncio.timeout(30):
            while not waiting.done():
                await world.services.index()
            await waiting


async def test_a_load_that_kserve_reports_as_failed_fails_with_the_reason(world: World) -> None:
    task = await world.begin("v1")
    world.kubernetes.of_version("v1")["status"] = blocked(
        "ModelLoadFailed", "v1: config.json is missing"
    )
    with refused(FailedPreconditionError, reason="LOAD_FAILED") as caught:
        await task
    assert caught.value.field == world.kubernetes.of_version("v1")["metadata"]["name"]
    assert "ModelLoadFailed: v1: config.json is missing" in caught.value.text


async def test_a_restarted_container_may_still_load(world: World) -> None:
    task = await world.begin("v1")
    world.kubernetes.of_version("v1")["status"] = blocked("ModelLoadFailed", "out of luck")
    await asyncio.sleep(0.1)
    world.kubernetes.of_version("v1")["status"] = not_ready("MinimumReplicasUnavailable")
    await asyncio.sleep(0.2)
    assert not task.done()
    await world.serve("v1")
    await task


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (not_ready("FailedCreate", "exceeded quota: gpus"), "FailedCreate: exceeded quota: gpus"),
        (not_ready("ReconcileFailed", "no such claim"), "ReconcileFailed: no such claim"),
    ],
)
async def test_a_failed_predictor_condition_fails_the_load_with_the_reason(
    world: World, status: Any, message: str
) -> None:
    task = await world.begin("v1")
    world.kubernetes.of_version("v1")["status"] = status
    with refused(FailedPreconditionError, reason="LOAD_FAILED") as caught:
        await task
    assert message in caught.value.text


# Status, expected unmet condition, and the part of the message that comes from KServe.
SLOW = {
    "nothing": ({}, "conditions", ""),
    "not yet": (not_ready("MinimumReplicasUnavailable", "no pod"), "PredictorReady", "no pod"),
    "past its deadline": (
        not_ready("ProgressDeadlineExceeded", "timed out"),
        "PredictorReady",
        "ProgressDeadlineExceeded: timed out",
    ),
    "ready alone": (ready("http://127.0.0.1:1"), "answer", ""),
}


@pytest.mark.parametrize("case", SLOW)
async def test_a_load_timeout_names_the_unmet_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(inference_services, "POLL_SECONDS", 0.02)
    status, unmet_condition, message = SLOW[case]
    async with world_of(tmp_path, FakeKubernetes(), load_seconds=1.0) as world:
        task = await world.begin("v1")
        world.kubernetes.of_version("v1")["status"] = status
        with refused(
            FailedPreconditionError, field=unmet_condition, reason="NOT_READY", limit="1 s"
        ) as caught:
            await task
    assert message in caught.value.text


async def test_unloading_deletes_only_the_object_of_that_version(world: World) -> None:
    await world.load("v1")
    await world.load("v2")
    await world.services.index()
    await world.services.unload("v1")
    assert world.kubernetes.versions() == {"v2"}
    assert await world.services.index() == {"v2": True}
    with pytest.raises(NotFoundError):
        await world.services.unload("v1")


async def test_another_object_with_the_same_name_is_not_deleted(world: World) -> None:
    await world.load("v1")
    await world.services.index()
    world.kubernetes.of_version("v1")["metadata"]["uid"] = "another uid"
    with refused(FailedPreconditionError, reason="KUBERNETES_API_REFUSES") as caught:
        await world.services.unload("v1")
    assert "UID" in caught.value.text
    assert world.kubernetes.versions() == {"v1"}


async def test_objects_of_other_releases_are_never_changed(world: World) -> None:
    await world.load("v1")
    name = world.kubernetes.of_version("v1")["metadata"]["name"]
    for labels in (
        {},
        {"app.kubernetes.io/instance": "other", "app.kubernetes.io/component": "predictor"},
    ):
        world.kubernetes.objects[name]["metadata"]["labels"] = labels
        assert await world.services.index() == {}
        with pytest.raises(NotFoundError):
            await world.services.unload("v1")
        with refused(FailedPreconditionError, field=name, reason="EXISTS"):
            await world.services.load("v1", "/models/v1")
    assert world.kubernetes.deleted == []


async def test_an_owned_object_without_a_version_is_ignored(world: World) -> None:
    await world.load("v1")
    world.kubernetes.of_version("v1")["metadata"]["annotations"] = {}
    assert await world.services.index() == {}


async def test_a_terminating_object_is_not_served_and_not_replaced(
    world: World,
) -> None:
    await world.load("v1")
    world.kubernetes.of_version("v1")["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    assert await world.services.index() == {"v1": False}
    name = world.kubernetes.of_version("v1")["metadata"]["name"]
    with refused(UnavailableError, field=name, reason="MODEL_SERVER_BUSY"):
        await world.services.load("v1", "/models/v1")


async def test_an_outdated_object_is_updated_and_not_reverted_by_an_older_replica(
    world: World,
) -> None:
    await world.load("v1")
    await world.services.index()
    world.kubernetes.template["spec"]["predictor"]["maxReplicas"] = 7
    newer = world.another()
    for services in (newer, world.services, newer, world.services):
        assert await services.index() == {"v1": True}
        assert world.kubernetes.of_version("v1")["spec"]["predictor"]["maxReplicas"] == 7
    assert len(world.kubernetes.applied) == 2


@pytest.mark.parametrize(
    ("directory", "reason"),
    [
        ("/elsewhere/v1", "OUT_OF_RANGE"),
        ("/models", "MALFORMED"),
        ("/models/../etc", "MALFORMED"),
        ("models/v1", "OUT_OF_RANGE"),
    ],
)
async def test_a_directory_outside_of_the_claim_is_refused(
    world: World, directory: str, reason: str
) -> None:
    with refused(FailedPreconditionError, field="directory", reason=reason, limit="/models"):
        await world.services.load("v1", directory)
    assert world.kubernetes.applied == []


async def test_a_rotated_token_is_read_again(world: World) -> None:
    await world.load("v1")
    world.kubernetes.token = "second"
    with refused(FailedPreconditionError, reason="KUBERNETES_API_REFUSES") as caught:
        await world.another().index()
    assert "Unauthorized" in caught.value.text
    (world.account / "token").write_text("second")
    assert await world.another().index() == {"v1": True}


async def test_a_missing_permission_is_reported(world: World) -> None:
    await world.services.index()
    world.kubernetes.refusal, world.kubernetes.refused_at = (
        (403, "cannot patch inferenceservices"),
        "PATCH",
    )
    with refused(FailedPreconditionError, reason="KUBERNETES_API_REFUSES") as caught:
        await world.services.load("v1", "/models/v1")
    assert "cannot patch inferenceservices" in caught.value.text


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failing_api_is_a_retryable_error(world: World, status: int) -> None:
    world.kubernetes.refusal = (status, "later")
    for asking in (world.services.index(), world.services.load("v1", "/models/v1")):
        with pytest.raises(UnavailableError) as caught:
            await asking
        assert caught.value.reason == "KUBERNETES_API_AWAY"


async def test_missing_kserve_and_a_missing_template_are_reported(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, FakeKubernetes(has_kserve=False)) as world:
        with refused(FailedPreconditionError, reason="NO_KSERVE"):
            await world.services.index()
    for template in (
        {},
        {
            "kind": "InferenceService",
            "metadata": {"labels": {"team": "chat"}, "generateName": "x-"},
        },
    ):
        async with world_of(tmp_path, FakeKubernetes(template=template)) as world:
            with refused(FailedPreconditionError, field=CONFIG_MAP, reason="NO_TEMPLATE"):
                await world.services.index()


async def test_a_certificate_of_another_authority_is_rejected(world: World, tmp_path: Path) -> None:
    async with (
        kubernetes_api(FakeKubernetes(), tmp_path / "other") as url,
        open_kubernetes_api(url, world.account, seconds=2.0) as api,
    ):
        with pytest.raises(UnavailableError):
            await api.get("/api/v1/namespaces/chat/configmaps/x")


async def test_a_missing_service_account_names_the_file(tmp_path: Path) -> None:
    with refused(NoServiceAccountError, field=str(tmp_path / "ca.crt")):
        async with open_kubernetes_api("https://localhost", tmp_path, seconds=1.0):
            pass
    with refused(NoServiceAccountError, field=str(tmp_path / "namespace")):
        read_namespace(tmp_path)
