"""Follows pods, namespaces and policies by watching the API, and puts the rules in force with each
change.

A pod is known from when the API tells its address, which is about when its containers start.
Connections that stand are left alone.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import aiohttp

from infra.cluster.policies.objects import Json, read_pods, read_policy
from infra.cluster.policies.rules import TABLE, World, render

PODS, NAMESPACES, POLICIES = (
    "/api/v1/pods",
    "/api/v1/namespaces",
    "/apis/networking.k8s.io/v1/networkpolicies",
)
KINDS = (PODS, NAMESPACES, POLICIES)
AGAIN_SECONDS = 0.5


class Watched(Protocol):
    """What is asked of the API."""

    async def get(self, path: str) -> Json: ...

    def watch(self, path: str, version: str) -> AsyncIterator[Json]: ...


class Enforcement:
    """Applies a table whenever it differs from the last one."""

    def __init__(self, api: Watched, apply: Callable[[str], Awaitable[None]]) -> None:
        self._api = api
        self._apply = apply
        self._known: dict[str, dict[str, Json]] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in KINDS:
                group.create_task(self._follow(kind))
            group.create_task(self._enforce())

    async def _follow(self, kind: str) -> None:
        """A watch ends whenever the server likes; then everything is listed again."""
        while True:
            try:
                listed = await self._api.get(kind)
                self._known[kind] = {_key(entry): entry for entry in listed["items"]}
                self._changed.set()
                async for event in self._api.watch(kind, listed["metadata"]["resourceVersion"]):
                    if event["type"] == "ERROR":
                        break
                    self._learn(kind, event)
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"watching again: {kind}: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(AGAIN_SECONDS)

    def _learn(self, kind: str, event: Json) -> None:
        key = _key(event["object"])
        if event["type"] == "DELETED":
            self._known[kind].pop(key, None)
        else:
            self._known[kind][key] = event["object"]
        self._changed.set()

    async def _enforce(self) -> None:
        """Nothing is put in force before all kinds are known: half of them would mean something
        else.
        """
        last = None
        while True:
            await self._changed.wait()
            self._changed.clear()
            if len(self._known) == len(KINDS) and (table := render(self._world())) != last:
                await self._apply(table)
                last = table

    def _world(self) -> World:
        namespaces = self._known[NAMESPACES].values()
        return World(
            pods=read_pods(self._known[PODS].values()),
            namespaces={
                entry["metadata"]["name"]: entry["metadata"].get("labels") or {}
                for entry in namespaces
            },
            policies=[read_policy(entry) for entry in self._known[POLICIES].values()],
        )


async def apply_table(table: str) -> None:
    """Hand it to the kernel, all of it or nothing. Raises: CalledProcessError: nftables does not
    take it.
    """
    process = await asyncio.create_subprocess_exec("nft", "-f", "-", stdin=subprocess.PIPE)
    await process.communicate(table.encode())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, ["nft"], table)


async def is_in_force() -> bool:
    """Whether a first table is there."""
    process = await asyncio.create_subprocess_exec(
        *("nft", "list", "table", "inet", TABLE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return await process.wait() == 0


def _key(found: Json) -> str:
    metadata = found["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
