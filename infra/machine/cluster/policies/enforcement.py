"""Enforcement of NetworkPolicies after every change of pods, namespaces and policies.

The API is watched for changes. A pod becomes known once the API reports its address, which is about
the start of its containers. Established connections are not affected.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import aiohttp

from infra.machine.cluster.policies.objects import Json, read_pods, read_policy
from infra.machine.cluster.policies.rules import TABLE, ClusterState, render

PODS, NAMESPACES, POLICIES = (
    "/api/v1/pods",
    "/api/v1/namespaces",
    "/apis/networking.k8s.io/v1/networkpolicies",
)
KINDS = (PODS, NAMESPACES, POLICIES)
RETRY_SECONDS = 0.5


class WatchApi(Protocol):
    """API calls of the enforcement."""

    async def get(self, path: str) -> Json: ...

    def watch(self, path: str, version: str) -> AsyncIterator[Json]: ...


class PolicyEnforcer:
    """Apply the nftables table whenever it differs from the last one."""

    def __init__(self, api: WatchApi, apply: Callable[[str], Awaitable[None]]) -> None:
        self._api = api
        self._apply = apply
        self._known: dict[str, dict[str, Json]] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch and enforce until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in KINDS:
                group.create_task(self._follow(kind))
            group.create_task(self._enforce())

    async def _follow(self, kind: str) -> None:
        """List and watch a kind.

        The server may end a watch at any time; then the kind is listed again.
        """
        while True:
            try:
                listed = await self._api.get(kind)
                self._known[kind] = {_key(entry): entry for entry in listed["items"]}
                self._changed.set()
                async for event in self._api.watch(kind, listed["metadata"]["resourceVersion"]):
                    if event["type"] == "ERROR":
                        break
                    key = _key(event["object"])
                    if event["type"] == "DELETED":
                        self._known[kind].pop(key, None)
                    else:
                        self._known[kind][key] = event["object"]
                    self._changed.set()
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"restarting watch: {kind}: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(RETRY_SECONDS)

    async def _enforce(self) -> None:
        """Apply changes once all kinds are known: partial data would yield other rules."""
        last = None
        while True:
            await self._changed.wait()
            self._changed.clear()
            if len(self._known) < len(KINDS):
                continue
            state = ClusterState(
                pods=read_pods(self._known[PODS].values()),
                namespaces={
                    entry["metadata"]["name"]: entry["metadata"].get("labels") or {}
                    for entry in self._known[NAMESPACES].values()
                },
                policies=[read_policy(entry) for entry in self._known[POLICIES].values()],
            )
            if (table := render(state)) != last:
                await self._apply(table)
                last = table


async def apply_table(table: str) -> None:
    """Replace the table atomically.

    Raises:
        CalledProcessError: nftables rejected the table.
    """
    process = await asyncio.create_subprocess_exec("nft", "-f", "-", stdin=subprocess.PIPE)
    await process.communicate(table.encode())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, ["nft"], table)


async def is_enforced() -> bool:
    """Return True if a table has been applied."""
    process = await asyncio.create_subprocess_exec(
        *("nft", "list", "table", "inet", TABLE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return await process.wait() == 0


def _key(found: Json) -> str:
    metadata = found["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
