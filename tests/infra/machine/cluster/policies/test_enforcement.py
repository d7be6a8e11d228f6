"""Enforcement of policies: list all kinds first, apply each change, list again after a watch."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from infra.machine.cluster.policies import enforcement
from infra.machine.cluster.policies.enforcement import (
    KINDS,
    NAMESPACES,
    PODS,
    POLICIES,
    PolicyEnforcer,
)
from infra.machine.cluster.policies.objects import Json

NAMESPACE: Json = {"metadata": {"name": "demo"}}
POLICY: Json = {"metadata": {"namespace": "demo", "name": "nobody"}, "spec": {"podSelector": {}}}


def pod(number: int) -> Json:
    return {
        "metadata": {"namespace": "demo", "name": f"pod-{number}"},
        "spec": {"containers": []},
        "status": {"podIP": f"10.88.0.{number}"},
    }


class FakeApi:
    """API with given lists and queued changes.

    None ends a watch; an error breaks a list.
    """

    def __init__(self) -> None:
        self.listed: dict[str, list[Json]] = {
            PODS: [pod(2)],
            NAMESPACES: [NAMESPACE],
            POLICIES: [POLICY],
        }
        self.events: dict[str, asyncio.Queue[Json | None]] = {
            kind: asyncio.Queue() for kind in KINDS
        }
        self.failures = 0
        self.open = asyncio.Event()
        self.open.set()

    async def get(self, path: str) -> Json:
        if path == POLICIES:
            await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise aiohttp.ClientError("not there")
        return {"metadata": {"resourceVersion": "7"}, "items": self.listed[path]}

    async def watch(self, path: str, version: str) -> AsyncIterator[Json]:
        assert version == "7"
        while event := await self.events[path].get():
            yield event


class Tables:
    """Recorder of applied tables."""

    def __init__(self) -> None:
        self.applied: asyncio.Queue[str] = asyncio.Queue()

    async def apply(self, table: str) -> None:
        self.applied.put_nowait(table)

    async def wait_for(self, *present: str, absent: str = "-") -> str:
        while True:
            table = await asyncio.wait_for(self.applied.get(), 20)
            if all(word in table for word in present) and absent not in table:
                return table


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "RETRY_SECONDS", 0.01)


async def test_no_table_is_applied_before_all_kinds_are_listed(api: FakeApi) -> None:
    tables = Tables()
    api.open.clear()
    running = asyncio.create_task(PolicyEnforcer(api, tables.apply).run())
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert tables.applied.empty()
    api.open.set()
    await tables.wait_for("ingress_10_88_0_2")
    running.cancel()


async def test_new_changed_and_deleted_pods_update_the_table(api: FakeApi) -> None:
    tables = Tables()
    running = asyncio.create_task(PolicyEnforcer(api, tables.apply).run())
    await tables.wait_for("ingress_10_88_0_2")
    api.events[PODS].put_nowait({"type": "ADDED", "object": pod(3)})
    await tables.wait_for("ingress_10_88_0_2", "ingress_10_88_0_3")
    api.events[PODS].put_nowait({"type": "DELETED", "object": pod(2)})
    await tables.wait_for("ingress_10_88_0_3", absent="ingress_10_88_0_2")
    api.events[POLICIES].put_nowait({"type": "DELETED", "object": POLICY})
    await tables.wait_for("chain forward", absent="ingress_")
    running.cancel()


async def test_unchanged_table_is_not_applied_again(api: FakeApi) -> None:
    tables = Tables()
    running = asyncio.create_task(PolicyEnforcer(api, tables.apply).run())
    await tables.wait_for("ingress_10_88_0_2")
    api.events[PODS].put_nowait({"type": "MODIFIED", "object": pod(2)})
    api.events[PODS].put_nowait({"type": "ADDED", "object": pod(3)})
    assert "ingress_10_88_0_3" in await asyncio.wait_for(tables.applied.get(), 20)
    running.cancel()


@pytest.mark.parametrize("end", [None, {"type": "ERROR", "object": {"code": 410}}])
async def test_ended_watch_lists_objects_again(api: FakeApi, end: Json | None) -> None:
    tables = Tables()
    running = asyncio.create_task(PolicyEnforcer(api, tables.apply).run())
    await tables.wait_for("ingress_10_88_0_2")
    api.listed[PODS] = [pod(9)]
    api.failures = 2
    api.events[PODS].put_nowait(end)
    await tables.wait_for("ingress_10_88_0_9", absent="ingress_10_88_0_2")
    assert api.failures == 0
    running.cancel()
