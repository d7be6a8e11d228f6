"""InferenceServices of a release, with a fake Kubernetes API and fake model servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
from thumbwheel.chat.v1 import chat_pb2

from services.generator.answering.engine import Timeouts
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk
from services.generator.kubernetes.api import open_kubernetes_api
from services.generator.kubernetes.inference_services import InferenceServices, Release
from tests.services.generator.fake_kubernetes import (
    CONFIG_MAP,
    NAMESPACE,
    FakeKubernetes,
    kubernetes_api,
    ready,
)
from tests.services.generator.predictor import FakePredictor, predictor_server


@dataclass
class World:
    kubernetes: FakeKubernetes
    services: InferenceServices
    account: Path
    stack: AsyncExitStack
    another: Callable[[], InferenceServices]
    loads: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, version: str, predictor: FakePredictor | None = None) -> FakePredictor:
        """Act as KServe: start a pod of the version and set the status."""
        predictor = predictor or FakePredictor(states={version: "READY"})
        port = await self.stack.enter_async_context(predictor_server(predictor))
        self.kubernetes.of_version(version)["status"] = ready(f"https://127.0.0.1:{port}")
        return predictor

    async def begin(self, version: str, directory: str = "") -> "asyncio.Task[None]":
        """Start a load and return when the object exists."""
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
        chunks: list[Chunk] = []
        await self.services.answer(
            version,
            [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="hello")],
            Sampling(0.5, 0.9, 8),
            chunks.append,
        )
        return "".join(chunk.text for chunk in chunks)


@asynccontextmanager
async def world_of(
    tmp_path: Path,
    kubernetes: FakeKubernetes,
    load_seconds: float = 20.0,
    models_root: Path = Path("/models"),
    max_adapter_rank: int = 0,
) -> AsyncIterator[World]:
    account = tmp_path / "account"
    release = Release(NAMESPACE, CONFIG_MAP, models_root, max_adapter_rank=max_adapter_rank)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(kubernetes_api(kubernetes, account))
        api = await stack.enter_async_context(open_kubernetes_api(url, account, seconds=2.0))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_connect=1.0))
        )
        another = partial(
            InferenceServices, api, http, release, Timeouts(5.0, 2.0, 0.3), load_seconds
        )
        world = World(kubernetes, another(), account, stack, another)
        yield world
        for task in world.loads:
            task.cancel()
