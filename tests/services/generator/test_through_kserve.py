"""The generator over gRPC with one InferenceService for each version; a loop acts as KServe."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.services.generator.canaries import CANDIDATES_USER, STABLES_USER, error_of, until
from tests.services.generator.fake_kubernetes import (
    CONFIG_MAP,
    FakeKubernetes,
    blocked,
    kserve_settings,
    kubernetes_api,
    ready,
)
from tests.services.generator.model_folders import write_adapter, write_model
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    Stubs,
    generator_service,
    generator_settings,
    model_directory,
    text_of,
    until_ready,
)

KEY = "a-key-for-tests-only"


async def run_fake_kserve(kubernetes: FakeKubernetes, predictor: FakePredictor, url: str) -> None:
    """Give every version a pod at one address; versions in `broken` never load."""
    while True:
        for version in kubernetes.versions():
            if version in predictor.broken:
                kubernetes.of_version(version)["status"] = blocked(
                    "ModelLoadFailed", predictor.broken[version]
                )
            else:
                predictor.states[version] = "READY"
                kubernetes.of_version(version)["status"] = ready(url)
        for deleted in predictor.states.keys() - kubernetes.versions() - predictor.adapters.keys():
            del predictor.states[deleted]
        await asyncio.sleep(0.02)


@asynccontextmanager
async def through_kserve(
    root: Path, kubernetes: FakeKubernetes, predictor: FakePredictor, **changes: Any
) -> AsyncIterator[Stubs]:
    async with (
        predictor_server(predictor) as port,
        kubernetes_api(kubernetes, root / "account") as url,
        generator_service(root, 0, **kserve_settings(root, url) | changes) as stubs,
    ):
        kserve = asyncio.create_task(
            run_fake_kserve(kubernetes, predictor, f"http://127.0.0.1:{port}")
        )
        yield stubs
        kserve.cancel()
        with suppress(asyncio.CancelledError):
            await kserve


async def test_model_servers_with_a_key_get_it_with_every_call(tmp_path: Path) -> None:
    kubernetes, predictor = FakeKubernetes(), FakePredictor(key=KEY)
    async with through_kserve(tmp_path, kubernetes, predictor, model_server_key=KEY) as stubs:
        await until_ready(stubs, "v1")
        assert text_of(await stubs.generate()) == "Hello there."


async def test_promotion_deletes_the_object_of_the_old_version(
    tmp_path: Path,
) -> None:
    kubernetes, predictor = FakeKubernetes(), FakePredictor(scripts={"v2": ["better"]})
    async with through_kserve(tmp_path, kubernetes, predictor) as stubs:
        await until_ready(stubs, "v1")
        assert kubernetes.versions() == {"v1"}
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        assert kubernetes.versions() == {"v1", "v2"}
        assert [await stubs.version_for(user) for user in (STABLES_USER, CANDIDATES_USER)] == [
            "v1",
            "v2",
        ]
        assert text_of(await stubs.generate(user_key=CANDIDATES_USER)) == "better"
        await stubs.promote("v2")
        await until(lambda: kubernetes.versions() == {"v2"})
        assert await stubs.version_for(STABLES_USER) == "v2"
    assert len(kubernetes.deleted) == 1


async def test_adapters_of_one_base_need_one_object(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "v1")
    predictor = FakePredictor(scripts={"v2/base_adapter": ["better"]})
    kubernetes = FakeKubernetes()
    async with through_kserve(tmp_path, kubernetes, predictor, max_adapter_rank=16) as stubs:
        await until_ready(stubs, "v1")
        for version in ("v2", "v3"):
            predictor.adapters[f"{version}/base_adapter"] = 200
            await stubs.start(version, write_adapter(models, version, "v1"))
            await stubs.promote(version)
        # The base has no users and stays loaded.
        assert await stubs.version_for(STABLES_USER) == "v3"
        assert kubernetes.versions() == {"v1"}
        # A complete model replaces the adapter, and then the base is unloaded.
        await stubs.start("v4", write_model(models, "v4"))
        assert kubernetes.versions() == {"v1", "v4"}
        await stubs.promote("v4")
        await until(lambda: kubernetes.versions() == {"v4"})


async def test_adapter_answers_as_candidate_and_after_a_restart(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "v1")
    adapter = write_adapter(models, "v2", "v1")
    predictor = FakePredictor(
        adapters={"v2/base_adapter": 200}, scripts={"v2/base_adapter": ["better"]}
    )
    kubernetes = FakeKubernetes()
    for is_first in (True, False):
        async with through_kserve(tmp_path, kubernetes, predictor, max_adapter_rank=16) as stubs:
            await until_ready(stubs, "v1")
            if is_first:
                await stubs.start("v2", adapter)
            async with asyncio.timeout(5):
                while await stubs.version_for(CANDIDATES_USER) != "v2":
                    await asyncio.sleep(0.02)
            assert text_of(await stubs.generate(user_key=CANDIDATES_USER)) == "better"
            assert text_of(await stubs.generate(user_key=STABLES_USER)) == "Hello there."
    assert kubernetes.versions() == {"v1"}
    assert {request["model"] for request in predictor.requests} == {"v1", "v2/base_adapter"}


async def test_a_candidate_that_fails_to_load_is_rolled_back_with_the_reason(
    tmp_path: Path,
) -> None:
    cause = "v2: config.json is missing"
    kubernetes, predictor = FakeKubernetes(), FakePredictor(broken={"v2": cause})
    async with through_kserve(tmp_path, kubernetes, predictor) as stubs:
        await until_ready(stubs, "v1")
        error = await error_of(stubs.start("v2", model_directory(tmp_path, "v2")))
        assert error.reason == "VERSION_FAILED"
        await until(lambda: kubernetes.versions() == {"v1"})
        (started,) = (await stubs.state()).history
    assert (started.kind, started.version) == ("rolled_back", "v2")
    assert started.reason == error.text
    assert f"ModelLoadFailed: {cause}" in started.reason


async def test_an_object_deleted_by_hand_is_created_again(tmp_path: Path) -> None:
    kubernetes = FakeKubernetes()
    async with through_kserve(tmp_path, kubernetes, FakePredictor()) as stubs:
        await until_ready(stubs, "v1")
        kubernetes.objects.clear()
        await until(lambda: kubernetes.versions() == {"v1"})
        await until_ready(stubs, "v1")


async def test_without_the_api_users_are_served_and_a_candidate_waits(
    tmp_path: Path,
) -> None:
    kubernetes = FakeKubernetes()
    async with through_kserve(tmp_path, kubernetes, FakePredictor()) as stubs:
        await until_ready(stubs, "v1")
        kubernetes.refusal = (503, "etcd is unavailable")
        starting = asyncio.create_task(stubs.start("v2", model_directory(tmp_path, "v2")))
        for _ in range(10):
            assert text_of(await stubs.generate()) == "Hello there."
            await asyncio.sleep(0.05)
        assert not starting.done()
        kubernetes.refusal = None
        await starting
        assert kubernetes.versions() == {"v1", "v2"}


async def test_a_missing_kserve_is_reported_to_operators(tmp_path: Path) -> None:
    async with through_kserve(tmp_path, FakeKubernetes(has_kserve=False), FakePredictor()) as stubs:
        async with asyncio.timeout(5):
            while "check that KServe is installed" not in (await stubs.state()).stable.reason:
                await asyncio.sleep(0.02)


async def test_two_replicas_create_one_object_for_a_version(tmp_path: Path, database: str) -> None:
    kubernetes, predictor = FakeKubernetes(), FakePredictor()
    directory = model_directory(tmp_path, "v2")
    changes: dict[str, Any] = {"database_url": database, "unload_grace_seconds": 0.5}
    async with through_kserve(tmp_path, kubernetes, predictor, **changes) as here:
        (url,) = kubernetes.urls
        async with generator_service(
            tmp_path, 0, **kserve_settings(tmp_path, url) | changes
        ) as there:
            for stubs in (here, there):
                await until_ready(stubs, "v1")
            await asyncio.gather(*(stubs.start("v2", directory) for stubs in (here, there)))
            assert len(kubernetes.objects) == 2
            await there.promote("v2")
            await until(lambda: kubernetes.versions() == {"v2"})
            assert [await stubs.version_for(STABLES_USER) for stubs in (here, there)] == [
                "v2",
                "v2",
            ]


# Changed settings, type of the error, and a setting named in the error.
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a server in addition to InferenceServices": (
        {"predictor_url": "http://127.0.0.1:1"},
        "conflict",
        "predictor_url",
    ),
    "no template": ({"inference_service": ""}, "incomplete", "inference_service"),
    "no models": ({"models_root": None}, "incomplete", "models_root"),
    "InferenceServices and no KServe": ({"serving": "predictor"}, "conflict", "inference_service"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradicting_settings_are_refused(tmp_path: Path, case: str) -> None:
    settings = kserve_settings(tmp_path, "https://localhost")
    assert generator_settings(tmp_path, 0, **settings).inference_service == CONFIG_MAP
    changes, kind, named = CONTRADICTIONS[case]
    with pytest.raises(ValidationError) as caught:
        generator_settings(tmp_path, 0, **settings | changes)
    (wrong,) = caught.value.errors()
    assert (wrong["loc"], wrong["type"]) == ((), kind)
    assert named in wrong["msg"]


def pods_of(kubernetes: FakeKubernetes, version: str) -> int:
    return int(kubernetes.of_version(version)["spec"]["predictor"]["minReplicas"])


async def test_a_candidate_has_its_own_size_until_its_share_is_large(tmp_path: Path) -> None:
    kubernetes, predictor = FakeKubernetes(), FakePredictor()
    kubernetes.template["spec"]["predictor"]["minReplicas"] = 4
    kubernetes.candidate = deepcopy(kubernetes.template)
    kubernetes.candidate["spec"]["predictor"]["minReplicas"] = 1
    async with through_kserve(
        tmp_path, kubernetes, predictor, small_candidate_share=0.2, watch_share=0.05
    ) as stubs:
        await until_ready(stubs, "v1")
        folder = model_directory(tmp_path, "v2")
        await stubs.start("v2", folder, share=0.1)
        assert (pods_of(kubernetes, "v1"), pods_of(kubernetes, "v2")) == (4, 1)
        await stubs.start("v2", folder, share=0.3)
        await until(lambda: pods_of(kubernetes, "v2") == 4)
        await stubs.start("v2", folder, share=0.2)
        await until(lambda: pods_of(kubernetes, "v2") == 1)
        await stubs.promote("v2")
        await until(lambda: pods_of(kubernetes, "v2") == 4)
        # The version before keeps its size for a return.
        assert pods_of(kubernetes, "v1") == 4
        applied = len(kubernetes.applied)
        await asyncio.sleep(0.3)
        assert len(kubernetes.applied) == applied


async def test_without_a_size_of_candidates_each_version_has_the_same(tmp_path: Path) -> None:
    kubernetes, predictor = FakeKubernetes(), FakePredictor()
    kubernetes.template["spec"]["predictor"]["minReplicas"] = 4
    async with through_kserve(tmp_path, kubernetes, predictor) as stubs:
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"), share=0.1)
        assert pods_of(kubernetes, "v2") == 4
