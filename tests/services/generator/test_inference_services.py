"""InferenceServices for versions, against a hand-made Kubernetes API and hand-made model servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import REGISTRY

from services.chassis.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.generator import inference_services
from services.generator.completions import SILENT
from services.generator.engine import Message, Patience
from services.generator.inference_services import InferenceServices, Place
from services.generator.kubernetes_api import (
    NoServiceAccountError,
    open_kubernetes_api,
    read_namespace,
)
from services.generator.presets import Sampling
from services.generator.sse import Piece
from tests.kserve_models import round_trip
from tests.services.generator.kubernetes import (
    CONFIG_MAP,
    NAMESPACE,
    FakeKubernetes,
    blocked,
    kubernetes_api,
    not_ready,
    ready,
)
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.support.errors import refused


@dataclass
class World:
    kubernetes: FakeKubernetes
    services: InferenceServices
    account: Path
    stack: AsyncExitStack
    another: Callable[[], InferenceServices]
    loads: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, version: str, predictor: FakePredictor | None = None) -> FakePredictor:
        """KServe's part: a pod of the version stands, and the status says so."""
        predictor = predictor or FakePredictor(states={version: "READY"})
        port = await self.stack.enter_async_context(predictor_server(predictor))
        self.kubernetes.of_version(version)["status"] = ready(f"https://127.0.0.1:{port}")
        return predictor

    async def begin(self, version: str, directory: str = "") -> "asyncio.Task[None]":
        """A load under way, whose object stands."""
        task = asyncio.create_task(self.services.load(version, directory or f"/models/{version}"))
        self.loads.add(task)
        async with asyncio.timeout(5):
            while version not in self.kubernetes.versions() and not task.done():
                await asyncio.sleep(0.01)
        return task

    async def load(self, version: str) -> FakePredictor:
        task = await self.begin(version)
        predictor = await self.serve(version)
        await task
        return predictor

    async def answer(self, version: str) -> str:
        pieces: list[Piece] = []
        await self.services.answer(
            version, [Message("user", "hello")], Sampling(0.5, 0.9, 8), pieces.append
        )
        return "".join(piece.text for piece in pieces)


@asynccontextmanager
async def world_of(
    tmp_path: Path, kubernetes: FakeKubernetes, load_seconds: float = 20.0
) -> AsyncIterator[World]:
    account = tmp_path / "account"
    place = Place(NAMESPACE, CONFIG_MAP, Path("/models"))
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(kubernetes_api(kubernetes, account))
        api = await stack.enter_async_context(open_kubernetes_api(url, account, seconds=2.0))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_connect=1.0))
        )
        another = partial(
            InferenceServices, api, http, place, Patience(5.0, 2.0, 0.3), load_seconds
        )
        world = World(kubernetes, another(), account, stack, another)
        yield world
        for task in world.loads:
            task.cancel()


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(inference_services, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(inference_services, "FAILING_SECONDS", 0.2)
    async with world_of(tmp_path, FakeKubernetes()) as found:
        yield found


@pytest.mark.parametrize(
    "status", [ready("http://v1.chat.svc.cluster.local"), not_ready("x", "y"), blocked("x", "y")]
)
def test_the_statuses_of_these_tests_are_as_kserve_has_them(status: Any) -> None:
    assert round_trip(status, "V1beta1InferenceServiceStatus") == status


async def test_a_version_is_loaded_when_it_answers_at_the_address_that_kserve_says(
    world: World,
) -> None:
    assert await world.services.index() == {}
    task = await world.begin("v1")
    assert await world.services.index() == {"v1": False}
    await world.serve("v1")
    await task
    assert await world.services.index() == {"v1": True}
    assert await world.answer("v1") == "Hello there."


async def test_the_object_is_the_charts_with_version_folder_name_and_owner(world: World) -> None:
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


async def test_each_version_is_asked_at_its_own_server(world: World) -> None:
    first, second = await world.load("v1"), await world.load("v2")
    first.script, second.script = ["one"], ["two"]
    assert await world.services.index() == {"v1": True, "v2": True}
    assert [await world.answer(version) for version in ("v1", "v2")] == ["one", "two"]
    assert [each.requests[0]["model"] for each in (first, second)] == ["v1", "v2"]


async def test_a_version_that_nobody_serves_is_not_found(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.answer("v1")


async def test_what_kserve_calls_ready_and_does_not_answer_is_not_served(world: World) -> None:
    predictor = await world.load("v1")
    predictor.states["v1"] = "LOADING"
    predictor.models_answer = False
    assert await world.services.index() == {"v1": False}
    predictor.models_answer = True
    predictor.states = {"other": "READY"}
    assert await world.services.index() == {"v1": False}, "it serves something else"


@pytest.mark.parametrize("status", ["Unknown", "False"])
async def test_what_answers_is_served_whatever_kserve_says_while_it_replaces_its_pods(
    world: World, status: str
) -> None:
    await world.load("v1")
    found = world.kubernetes.of_version("v1")
    found["status"] |= not_ready("ReplicaSetUpdated", status=status)
    assert await world.services.index() == {"v1": True}
    assert await world.answer("v1") == "Hello there."


async def test_while_kubernetes_is_away_who_answers_is_served_and_who_does_not_is_not(
    world: World,
) -> None:
    first, second = await world.load("v1"), await world.load("v2")
    await world.services.index()
    world.kubernetes.refusal = (503, "etcd is away")
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


async def test_labels_that_come_with_other_values_of_the_chart_change_nobodys_belonging(
    world: World,
) -> None:
    await world.load("v1")
    world.kubernetes.template["metadata"]["labels"]["team"] = "chat"
    fresh = world.another()
    assert await fresh.index() == {"v1": True}
    assert world.kubernetes.of_version("v1")["metadata"]["labels"]["team"] == "chat", (
        "brought up to date"
    )
    await fresh.load("v1", "/models/v1")


async def test_a_version_that_is_heard_in_its_answers_is_only_busy(world: World) -> None:
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


async def test_an_answer_from_a_server_that_has_fallen_silent_ends(world: World) -> None:
    predictor = await world.load("v1")
    await world.services.index()
    predictor.silent_after = 0
    waiting = asyncio.create_task(world.answer("v1"))
    while not predictor.requests:
        await asyncio.sleep(0.01)
    predictor.models_hang = True
    with refused(UnavailableError, reason=SILENT):
        async with asyncio.timeout(30):
            while not waiting.done():
                await world.services.index()
            await waiting


async def test_a_load_that_kserve_gives_up_fails_with_its_reason(world: World) -> None:
    task = await world.begin("v1")
    world.kubernetes.of_version("v1")["status"] = blocked(
        "ModelLoadFailed", "v1: config.json is missing"
    )
    with refused(FailedPreconditionError, reason="LOAD_FAILED") as caught:
        await task
    assert caught.value.field == world.kubernetes.of_version("v1")["metadata"]["name"]
    assert "ModelLoadFailed: v1: config.json is missing" in caught.value.text


async def test_a_container_that_falls_once_and_rises_may_still_load(world: World) -> None:
    task = await world.begin("v1")
    world.kubernetes.of_version("v1")["status"] = blocked("ModelLoadFailed", "out of luck")
    await asyncio.sleep(0.1)
    world.kubernetes.of_version("v1")["status"] = not_ready("MinimumReplicasUnavailable")
    await asyncio.sleep(0.2)
    assert not task.done()
    await world.serve("v1")
    await task


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (not_ready("FailedCreate", "exceeded quota: gpus"), "FailedCreate: exceeded quota: gpus"),
        (not_ready("ReconcileFailed", "no such claim"), "ReconcileFailed: no such claim"),
    ],
)
async def test_what_kserve_cannot_do_fails_with_its_reason(
    world: World, status: Any, told: str
) -> None:
    task = await world.begin("v1")
    world.kubernetes.of_version("v1")["status"] = status
    with refused(FailedPreconditionError, reason="LOAD_FAILED") as caught:
        await task
    assert told in caught.value.text


# What KServe says, what it lacks, and what of KServe's own words is told.
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
async def test_a_load_that_takes_too_long_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(inference_services, "LOOK_SECONDS", 0.02)
    status, lacks, told = SLOW[case]
    async with world_of(tmp_path, FakeKubernetes(), load_seconds=1.0) as world:
        task = await world.begin("v1")
        world.kubernetes.of_version("v1")["status"] = status
        with refused(
            FailedPreconditionError, field=lacks, reason="NOT_READY", limit="1 s"
        ) as caught:
            await task
    assert told in caught.value.text


async def test_an_unloaded_version_is_deleted_and_only_that(world: World) -> None:
    await world.load("v1")
    await world.load("v2")
    await world.services.index()
    await world.services.unload("v1")
    assert world.kubernetes.versions() == {"v2"}
    assert await world.services.index() == {"v2": True}
    with pytest.raises(NotFoundError):
        await world.services.unload("v1")


async def test_another_object_under_the_same_name_is_not_deleted(world: World) -> None:
    await world.load("v1")
    await world.services.index()
    world.kubernetes.of_version("v1")["metadata"]["uid"] = "made anew"
    with refused(FailedPreconditionError, reason="KUBERNETES_API_REFUSES") as caught:
        await world.services.unload("v1")
    assert "UID" in caught.value.text
    assert world.kubernetes.versions() == {"v1"}


async def test_what_is_not_of_this_release_is_never_touched(world: World) -> None:
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


async def test_an_object_of_ours_without_a_version_is_left_alone(world: World) -> None:
    await world.load("v1")
    world.kubernetes.of_version("v1")["metadata"]["annotations"] = {}
    assert await world.services.index() == {}


async def test_a_version_that_is_going_is_not_served_and_not_made_anew_before_it_is_gone(
    world: World,
) -> None:
    await world.load("v1")
    world.kubernetes.of_version("v1")["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    assert await world.services.index() == {"v1": False}
    name = world.kubernetes.of_version("v1")["metadata"]["name"]
    with refused(UnavailableError, field=name, reason="MODEL_SERVER_BUSY"):
        await world.services.load("v1", "/models/v1")


async def test_what_an_older_chart_wrote_is_brought_up_to_date_and_an_older_replica_does_not_write_back(
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
async def test_a_directory_that_is_not_in_the_claim_is_refused(
    world: World, directory: str, reason: str
) -> None:
    with refused(FailedPreconditionError, field="directory", reason=reason, limit="/models"):
        await world.services.load("v1", directory)
    assert world.kubernetes.applied == []


async def test_a_token_that_rotates_is_read_again(world: World) -> None:
    await world.load("v1")
    world.kubernetes.token = "second"
    with refused(FailedPreconditionError, reason="KUBERNETES_API_REFUSES") as caught:
        await world.another().index()
    assert "Unauthorized" in caught.value.text
    (world.account / "token").write_text("second")
    assert await world.another().index() == {"v1": True}


async def test_a_right_that_is_missing_is_told(world: World) -> None:
    await world.services.index()
    world.kubernetes.refusal, world.kubernetes.refused_at = (
        (403, "cannot patch inferenceservices"),
        "PATCH",
    )
    with refused(FailedPreconditionError, reason="KUBERNETES_API_REFUSES") as caught:
        await world.services.load("v1", "/models/v1")
    assert "cannot patch inferenceservices" in caught.value.text


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_api_in_trouble_is_asked_again_later(world: World, status: int) -> None:
    world.kubernetes.refusal = (status, "later")
    for asking in (world.services.index(), world.services.load("v1", "/models/v1")):
        with pytest.raises(UnavailableError) as caught:
            await asking
        assert caught.value.reason == "KUBERNETES_API_AWAY"


async def test_a_cluster_without_kserve_and_a_chart_without_its_config_map_are_told(
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


async def test_another_authority_is_not_believed(world: World, tmp_path: Path) -> None:
    async with (
        kubernetes_api(FakeKubernetes(), tmp_path / "other") as url,
        open_kubernetes_api(url, world.account, seconds=2.0) as api,
    ):
        with pytest.raises(UnavailableError):
            await api.get("/api/v1/namespaces/chat/configmaps/x")


async def test_without_a_service_account_it_says_where_it_looked(tmp_path: Path) -> None:
    with refused(NoServiceAccountError, field=str(tmp_path / "ca.crt")):
        async with open_kubernetes_api("https://localhost", tmp_path, seconds=1.0):
            pass
    with refused(NoServiceAccountError, field=str(tmp_path / "namespace")):
        read_namespace(tmp_path)
