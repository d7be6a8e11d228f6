"""Versions that are adapters of one base, at the server of their base."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.chassis.errors import FailedPreconditionError, NotFoundError
from services.generator.kubernetes.adapters import (
    BaseAdapter,
    UnusableAdapterError,
    read_adapter,
)
from tests.services.generator.fake_kubernetes import FakeKubernetes
from tests.services.generator.kubernetes.world import World, world_of
from tests.services.generator.model_folders import write_adapter, write_manifest, write_model
from tests.services.generator.predictor import FakePredictor
from tests.support.errors import refused

MAX_RANK = 16


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with a base and two adapters of it."""
    root = tmp_path / "models"
    write_model(root, "v0")
    for version in ("v1", "v2"):
        write_adapter(root, version, "v0")
    return root


@pytest.fixture
async def world(tmp_path: Path, models: Path, quick_polls: None) -> AsyncIterator[World]:
    kubernetes = FakeKubernetes()
    async with world_of(
        tmp_path, kubernetes, models_root=models, max_adapter_rank=MAX_RANK
    ) as found:
        yield found


async def serve_adapters(world: World, models: Path) -> FakePredictor:
    """Load the base and both adapters; return the only server."""
    task = await world.begin("v0", str(models / "v0"))
    server = await world.serve("v0")
    await task
    server.adapters = {f"{version}/base_adapter": 200 for version in ("v1", "v2")}
    for version in ("v1", "v2"):
        await world.services.load(version, str(models / version))
    return server


async def test_adapters_of_one_base_are_answered_by_its_server(world: World, models: Path) -> None:
    server = await serve_adapters(world, models)
    server.scripts = {"v0": ["zero"], "v1/base_adapter": ["one"], "v2/base_adapter": ["two"]}
    assert world.kubernetes.versions() == {"v0"}
    assert await world.services.index() == {"v0": True, "v1": True, "v2": True}
    assert [await world.answer(v) for v in ("v0", "v1", "v2")] == ["zero", "one", "two"]
    assert await world.services.tokenize("v1", "hello") == [1]


async def test_base_is_loaded_for_an_adapter_alone(world: World, models: Path) -> None:
    task = asyncio.create_task(world.services.load("v1", str(models / "v1")))
    world.loads.add(task)
    async with asyncio.timeout(5):
        while not world.kubernetes.objects:
            await asyncio.sleep(0.01)
    await world.serve(
        "v0", FakePredictor(states={"v0": "READY"}, adapters={"v1/base_adapter": 200})
    )
    await task
    assert world.kubernetes.versions() == {"v0"}
    # A replica that starts later knows no adapter until the reconciler loads it.
    other = world.another()
    assert await other.index() == {"v0": True}
    await other.load("v1", str(models / "v1"))
    assert await other.index() == {"v0": True, "v1": True}


async def test_adapter_is_served_while_its_server_knows_it(world: World, models: Path) -> None:
    server = await serve_adapters(world, models)
    server.adapters["v1/base_adapter"] = 404
    assert await world.services.index() == {"v0": True, "v1": False, "v2": True}
    # Too busy for this request, while the list of models still arrives.
    server.adapters["v1/base_adapter"] = 503
    assert (await world.services.index())["v1"]
    server.models_answer = False
    assert await world.services.index() == {"v0": False, "v1": False, "v2": False}


@pytest.mark.parametrize("status", [400, 404])
async def test_adapter_that_the_server_refuses_fails_with_the_reason(
    world: World, models: Path, status: int
) -> None:
    server = await serve_adapters(world, models)
    write_adapter(models, "v3", "v0")
    server.adapters["v3/base_adapter"] = status
    with refused(
        FailedPreconditionError, field="v3/base_adapter", reason="ADAPTER_REFUSED"
    ) as caught:
        await world.services.load("v3", str(models / "v3"))
    assert "the server of v0" in caught.value.text
    assert "v3" not in await world.services.index()


async def test_unloading_an_adapter_leaves_its_base(world: World, models: Path) -> None:
    await serve_adapters(world, models)
    await world.services.index()
    await world.services.unload("v1")
    assert await world.services.index() == {"v0": True, "v2": True}
    with pytest.raises(NotFoundError):
        await world.services.unload("v1")
    with pytest.raises(NotFoundError):
        await world.answer("v1")
    wanted = {version: str(models / version) for version in ("v0", "v2")}
    assert await world.services.bases(wanted) == {"v0"}
    assert await world.services.bases({"v0": str(models / "v0")}) == set()


async def test_version_with_an_object_of_its_own_keeps_it(
    tmp_path: Path, models: Path, quick_polls: None
) -> None:
    kubernetes = FakeKubernetes()
    async with world_of(tmp_path, kubernetes, models_root=models) as before:
        task = await before.begin("v1", str(models / "v1"))
        await before.serve("v1")
        await task
        assert await before.services.bases({"v1": str(models / "v1")}) == set()
        async with world_of(
            tmp_path / "new", kubernetes, models_root=models, max_adapter_rank=MAX_RANK
        ) as after:
            assert await after.services.index() == {"v1": True}
            assert await after.services.bases({"v1": str(models / "v1")}) == set()
            await after.services.load("v1", str(models / "v1"))
            assert await after.answer("v1") == "Hello there."
    assert kubernetes.versions() == {"v1"}


def of_another_base(models: Path) -> None:
    write_model(models, "v0", **{"model.safetensors": "other weights"})


def without_base(models: Path) -> None:
    (models / "v0" / "manifest.json").unlink()


def erased_base(models: Path) -> None:
    write_manifest(models / "v0", erased=[{"number": 1, "time": "now"}])


def high_rank(models: Path) -> None:
    config = models / "v1" / "base_adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 17'))
    write_manifest(models / "v1")


def damaged(models: Path) -> None:
    (models / "v1" / "base_adapter" / "adapter_model.safetensors").write_text("adap")


def other_template(models: Path) -> None:
    (models / "v1" / "chat_template.jinja").write_text("other")
    write_manifest(models / "v1")


def path_as_base(models: Path) -> None:
    config = models / "v1" / "base_adapter" / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": ".."})
    )
    write_manifest(models / "v1")


def without_adapter(models: Path) -> None:
    (models / "v1" / "base_adapter" / "adapter_config.json").unlink()


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (of_another_base, "base_model_sha256"),
    "no base": (without_base, "manifest.json"),
    "erased base": (erased_base, "files"),
    "rank": (high_rank, "r"),
    "damaged": (damaged, "base_adapter/adapter_model.safetensors"),
    "template": (other_template, "chat_template.jinja"),
    "path": (path_as_base, "base_adapter/adapter_config.json"),
    "none": (without_adapter, "base_adapter/adapter_config.json"),
}


@pytest.mark.parametrize("case", CASES)
async def test_version_that_is_no_adapter_of_its_base_gets_a_server_of_its_own(
    world: World, models: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_adapter(models, "v1", MAX_RANK) == BaseAdapter("v0", "v1/base_adapter")
    change, named = CASES[case]
    change(models)
    with refused(UnusableAdapterError, field=named):
        read_adapter(models, "v1", MAX_RANK)
    with caplog.at_level("INFO"):
        task = await world.begin("v1", str(models / "v1"))
        await world.serve("v1")
        await task
    assert world.kubernetes.versions() == {"v1"}
    assert await world.services.index() == {"v1": True}
    assert [r for r in caplog.records if re.match("version gets a server", r.getMessage())]
