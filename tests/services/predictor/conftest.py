"""A real predictor with a tiny model, in this process, on a loopback port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import torch
from aiohttp import web

from services.predictor.engine.engine import AdmissionLimits
from services.predictor.engine.pipeline import PipelineOptions, Precision
from services.predictor.errors import PredictorError, error_body
from services.predictor.graph.conversion import convert
from services.predictor.graph.weights import WeightFormat
from services.predictor.http import middleware, replies
from services.predictor.http.access import AccessRules
from services.predictor.http.app import build_app, build_metrics_app
from services.predictor.http.kserve import Readiness
from services.predictor.ir_cache import IrCache
from services.predictor.manifest import DigestCache
from services.predictor.metrics import Metrics
from services.predictor.repository import Journal, Repository, RepositoryLimits
from services.predictor.version import Loader, Version
from tests.services.predictor.model_directories import write_model

OPTIONS = PipelineOptions(kv_blocks=64, prefill_chunk_tokens=64, threads=1, precision=Precision.F32)
LIMITS = AdmissionLimits(max_concurrent=4, max_waiting=4)
MAX_BODY_BYTES = 2_000_000
KEY = "a-key-for-tests-only"
BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Predictor:
    """A running predictor and a client with the key."""

    url: str
    metrics_url: str
    client: aiohttp.ClientSession
    repository: Repository[Version]
    readiness: Readiness
    metrics: Metrics
    convert_calls: list[Path]

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Return status and parsed body."""
        async with self.client.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and parsed body."""
        async with self.client.get(self.url + path) as response:
            return response.status, await response.json()

    async def load(self, version: str, directory: Path) -> tuple[int, Any]:
        """Load a version through the repository extension."""
        path = f"/v2/repository/models/{version}/load"
        return await self.post(path, {"parameters": {"directory": str(directory)}})


StartPredictor = Callable[..., Awaitable[Predictor]]


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread, since the models are tiny and the machine may be shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def first_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny-1", "tiny-1")


@pytest.fixture(scope="session")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny-2", "tiny-2", seed=11)


@pytest.fixture(scope="session")
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("cache")
    (directory / "graphs").mkdir()
    yield directory


@pytest.fixture
async def start_predictor(cache_directory: Path, tmp_path: Path) -> AsyncIterator[StartPredictor]:
    """Return a function that starts predictors with other limits.

    `weight_format` is that of the graphs; 8-bit weights are the default.
    """
    async with AsyncExitStack() as stack:

        async def start(
            limits: AdmissionLimits = LIMITS, options: PipelineOptions = OPTIONS, **bounds: Any
        ) -> Predictor:
            return await stack.enter_async_context(
                _running(cache_directory, tmp_path, limits, options, bounds)
            )

        yield start


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[PredictorError]:
    """Return the list of errors whose bodies were sent, in order.

    OpenAI's error body has no field for reason and limit.
    """
    sent: list[PredictorError] = []

    def recorded(error: PredictorError, status: int) -> Any:
        sent.append(error)
        return error_body(error, status)

    for module in (middleware, replies):
        monkeypatch.setattr(module, "error_body", recorded)
    return sent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def predictor(
    cache_directory: Path, tmp_path_factory: pytest.TempPathFactory, first_model: Path
) -> AsyncIterator[Predictor]:
    """Run a predictor with tiny-1 for all tests of a module, on the event loop of the module.

    Tests must not change versions. The weights are float32: with 8-bit weights activations are
    rounded to 8 bits, so the last bit of a sum, which depends on processor and batch, may move a
    log-prob by 0.1.
    """
    async with _running(
        cache_directory,
        tmp_path_factory.mktemp("journal"),
        LIMITS,
        OPTIONS,
        {"weight_format": WeightFormat.F32},
    ) as started:
        await load_first(started, first_model)
        yield started


async def load_first(predictor: Predictor, first_model: Path) -> None:
    assert await predictor.load("tiny-1", first_model) == (
        200,
        {"name": "tiny-1", "state": "READY"},
    )


@asynccontextmanager
async def _running(
    cache: Path,
    tmp_path: Path,
    limits: AdmissionLimits,
    options: PipelineOptions,
    bounds: dict[str, Any],
) -> AsyncIterator[Predictor]:
    metrics, readiness = Metrics(), Readiness()
    calls: list[Path] = []
    weight_format = bounds.pop("weight_format", WeightFormat.U8)
    graphs = cache / ("graphs" if weight_format is WeightFormat.U8 else "float graphs")
    graphs.mkdir(exist_ok=True)

    def counted(source: Path, target: Path) -> None:
        calls.append(source)
        convert(source, target, weight_format)

    loader = Loader(
        digests=DigestCache(cache / "digests.json"),
        graphs=IrCache(graphs, 16, counted),
        options=options,
        limits=limits,
        metrics=metrics,
        loop=asyncio.get_running_loop(),
    )
    repository = Repository(
        lambda name, directory: asyncio.to_thread(loader.load, name, directory),
        RepositoryLimits(
            **{
                "max_versions": 3,
                "max_versions_setting": "TW_PREDICTOR_MAX_VERSIONS",
                "drain_seconds": 120.0,
                **bounds,
            }
        ),
        Journal(tmp_path / "loaded.json"),
    )
    access = AccessRules(KEY, allowed_hosts=("predictor", ".chat.svc"))
    built = build_app(
        repository, readiness, metrics, access, default_max_tokens=64, max_body_bytes=MAX_BODY_BYTES
    )
    runners = [
        web.AppRunner(built, access_log=None, handler_cancellation=True, shutdown_timeout=1.0),
        web.AppRunner(build_metrics_app(metrics), access_log=None),
    ]
    for runner in runners:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(headers=BEARER) as client:
        url, metrics_url = (f"http://127.0.0.1:{each.addresses[0][1]}" for each in runners)
        yield Predictor(url, metrics_url, client, repository, readiness, metrics, calls)
    await repository.close()
    for runner in runners:
        await runner.cleanup()
