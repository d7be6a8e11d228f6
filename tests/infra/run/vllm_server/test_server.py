"""The vLLM server with a fake vLLM, called as the generator calls a model server."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from thumbwheel.chat.v1 import chat_pb2

from infra.run.supervision.ports import distinct_free_ports
from infra.run.vllm_server.__main__ import serve
from infra.run.vllm_server.settings import VllmServerSettings
from services.chassis.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.generator.answering.engine import Timeouts
from services.generator.answering.model_server import HttpModelServer
from services.generator.answering.presets import Sampling
from tests.support.errors import refused
from tests.support.fake_vllm import started, write_interpreter, write_model

KEY = "a-key-for-tests-only"
HELLO = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="Hello")]
WAIT_SECONDS = 30.0
ROOT = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Served:
    """A vLLM server, the generator's client of it, and the session of both."""

    url: str
    metrics_url: str
    server: HttpModelServer
    http: aiohttp.ClientSession

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        async with self.http.post(f"{self.url}{path}", json=body) as response:
            return response.status, await response.json()

    async def answer(self, version: str, tokens: int) -> list[str]:
        """Return the texts of the chunks of an answer."""
        texts: list[str] = []
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=tokens)
        await self.server.answer(version, HELLO, sampling, lambda chunk: texts.append(chunk.text))
        return [text for text in texts if text]

    async def metrics(self) -> dict[str, float]:
        async with self.http.get(f"{self.metrics_url}/metrics") as response:
            assert response.status == 200
            lines = (await response.text()).splitlines()
        families = [line for line in lines if line.startswith("# TYPE")]
        assert len(set(families)) == len(families)
        rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return write_interpreter(tmp_path / "environment")


@pytest.fixture
def ports() -> list[int]:
    """Return the ports of the server and of its metrics."""
    return distinct_free_ports(2)


@pytest.fixture
async def running_server(
    tmp_path: Path, python: Path, ports: list[int]
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a server in this process; at its end no process of it is left."""
    port, metrics_port = ports
    settings = VllmServerSettings.model_validate(
        {
            "port": port,
            "metrics_port": metrics_port,
            "model_server_key": KEY,
            "python": python,
            "folder": tmp_path / "vllm",
            "drain_seconds": 5,
        }
    )
    running = asyncio.create_task(serve(settings))
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])
    models = list(tmp_path.iterdir())
    await until(lambda: not [pid for model in models for pid in alive(model)])


@pytest.fixture
async def served(running_server: asyncio.Task[None], ports: list[int]) -> AsyncIterator[Served]:
    async with client(*ports) as found:
        yield found


@asynccontextmanager
async def client(port: int, metrics_port: int) -> AsyncIterator[Served]:
    """Return the client of a server as soon as the server listens."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        url = f"http://127.0.0.1:{port}"
        server = HttpModelServer(http, url, Timeouts(20.0, 20.0, 20.0), WAIT_SECONDS)
        found = Served(url, f"http://127.0.0.1:{metrics_port}", server, http)

        async def listens() -> bool:
            try:
                async with http.get(f"{url}/v2/health/ready") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        async with asyncio.timeout(WAIT_SECONDS):
            while not await listens():
                await asyncio.sleep(0.01)
        yield found


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; a coroutine is awaited."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return True unless the process has ended or is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive(model: Path) -> list[int]:
    """Return the processes of all starts with a model directory that run now."""
    return [pid for start in started(model) for pid in start["pids"] if is_alive(pid)]


async def test_versions_are_loaded_once_and_answer(served: Served, tmp_path: Path) -> None:
    stable, candidate = write_model(tmp_path / "v1"), write_model(tmp_path / "v2")
    await asyncio.gather(
        *(served.server.load("v1", str(stable)) for _ in range(2)),
        served.server.load("v2", str(candidate)),
    )
    await served.server.load("v1", str(stable))
    assert await served.server.index() == {"v1": True, "v2": True}
    (start,), _ = started(stable), started(candidate)
    assert start["options"]["gpu-memory-utilization"] == "0.450"
    assert not [name for name in start["variables"] if name.startswith("TW_")]
    assert await served.answer("v1", 3) == ["0 ", "1 ", "2 "]
    assert await served.server.tokenize("v2", "ab") == [97, 98]
    # Answers and refusals of vLLM are passed on as they are.
    request = {"model": "v2", "prompt": "a"}
    assert await served.post("/v1/completions", request) == (200, {"model": "v2"})
    status, body = await served.post("/v1/completions", request | {"max_tokens": 0})
    assert (status, body["error"]["param"]) == (400, "max_tokens")
    async with served.http.get(f"{served.url}/v1/models") as response:
        cards = (await response.json())["data"]
    assert {(card["id"], card["max_model_len"]) for card in cards} == {("v1", 64), ("v2", 64)}
    metrics = await served.metrics()
    for name in ("v1", "v2"):
        assert metrics[f'vllm:prompt_tokens_total{{model_name="{name}"}}'] == 7
        assert metrics[f'thumbwheel_vllm_server_version_ready{{version="{name}"}}'] == 1
    assert "process_cpu_seconds_total" not in metrics


async def test_invalid_requests_are_refused(served: Served, tmp_path: Path) -> None:
    model = write_model(tmp_path / "v1")
    await served.server.load("v1", str(model))
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    status, body = await served.post("/v1/chat/completions", chat | {"model": "v9"})
    assert (status, body["error"]["param"]) == (404, "model")
    for wrong, param in (([], None), ({"model": 1}, "model")):
        status, body = await served.post("/v1/chat/completions", wrong)
        assert (status, body["error"]["param"]) == (400, param)
    for key in ({}, {"Authorization": "Bearer another-key-for-tests"}):
        async with aiohttp.request("GET", f"{served.url}/v1/models", headers=key) as response:
            assert response.status == 401
    with refused(FailedPreconditionError):
        await served.server.load("v2", str(tmp_path))
    await served.server.load("v2", str(write_model(tmp_path / "v2")))
    third = {"parameters": {"directory": str(write_model(tmp_path / "v3"))}}
    status, body = await served.post("/v2/repository/models/v3/load", third)
    assert status == 503
    assert "TW_VLLM_SERVER_MAX_VERSIONS" in body["error"]
    assert "v3" not in await served.server.index()


async def test_failed_start_has_the_first_error_of_the_log(served: Served, tmp_path: Path) -> None:
    cause = "ValueError: No available memory for the cache blocks"
    warning = "(APIServer pid=6) WARNING 11-29 17:38:18 [x.py:1] such as `OSError: [Errno 24] full`"
    error = f"(EngineCore pid=7) ERROR 11-29 17:39:38 [y.py:2] {cause}"
    model = write_model(tmp_path / "v1", fails=f"{warning}\n{error}")
    with refused(FailedPreconditionError) as caught:
        await served.server.load("v1", str(model))
    assert cause in str(caught.value)
    assert "Errno" not in str(caught.value)
    _, entries = await served.post("/v2/repository/index", {})
    assert entries[0]["state"] == "UNAVAILABLE"
    assert cause in entries[0]["reason"]
    with pytest.raises(UnavailableError):
        await served.answer("v1", 1)
    write_model(model)
    await served.server.load("v1", str(model))
    assert await served.server.index() == {"v1": True}


async def test_version_of_an_ended_process_is_not_listed(served: Served, tmp_path: Path) -> None:
    model = write_model(tmp_path / "v1")
    await served.server.load("v1", str(model))
    (start,) = started(model)
    answer = asyncio.create_task(served.answer("v1", 10_000))
    running = 'vllm:num_requests_running{model_name="v1"}'

    async def is_running() -> bool:
        return (await served.metrics())[running] == 1

    await until(is_running)
    os.kill(start["pids"][0], signal.SIGKILL)
    with refused(UnavailableError, reason="MODEL_SERVER_LOST"):
        await answer

    async def is_forgotten() -> bool:
        return not await served.server.index()

    await until(is_forgotten)
    await until(lambda: not alive(model))  # its engine included
    metrics = await served.metrics()
    assert metrics['thumbwheel_vllm_server_process_ends_total{version="v1"}'] == 1
    await served.server.load("v1", str(model))
    assert await served.answer("v1", 1) == ["0 "]


async def test_load_ends_with_the_server(
    served: Served, running_server: asyncio.Task[None], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "v1", waits=600)
    load = asyncio.create_task(served.server.load("v1", str(model)))
    await until(lambda: started(model))
    running_server.cancel()
    with pytest.raises(UnavailableError):
        await load
    await until(lambda: not alive(model))


async def test_only_idle_versions_are_unloaded(served: Served, tmp_path: Path) -> None:
    model = write_model(tmp_path / "v1")
    await served.server.load("v1", str(model))
    answer = asyncio.create_task(served.answer("v1", 10_000))
    running = 'vllm:num_requests_running{model_name="v1"}'

    async def runs(count: int) -> bool:
        return (await served.metrics())[running] == count

    await until(lambda: runs(1))
    with refused(FailedPreconditionError):
        await served.server.unload("v1")
    assert await served.server.index() == {"v1": True}
    # The disconnect reaches vLLM, also before its first token.
    answer.cancel()
    await until(lambda: runs(0))
    request = {"model": "v1", "prompt": "a", "max_tokens": 10_000}
    waiting = asyncio.create_task(served.post("/v1/completions", request))
    await until(lambda: runs(1))
    waiting.cancel()
    await until(lambda: runs(0))
    await served.server.unload("v1")
    await until(lambda: not alive(model))
    assert await served.server.index() == {}
    with refused(NotFoundError):
        await served.server.unload("v1")


async def test_no_process_outlives_a_killed_server(
    tmp_path: Path, python: Path, ports: list[int]
) -> None:
    port, metrics_port = ports
    settings = {
        "PORT": str(port),
        "METRICS_PORT": str(metrics_port),
        "MODEL_SERVER_KEY": KEY,
        "PYTHON": str(python),
        "FOLDER": str(tmp_path / "vllm"),
        "ARGUMENTS": json.dumps(["--seed=3"]),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.run.vllm_server"),
        cwd=ROOT,
        env={**os.environ, **{f"TW_VLLM_SERVER_{name}": text for name, text in settings.items()}},
    )
    model = write_model(tmp_path / "v1")
    try:
        async with client(port, metrics_port) as found:
            await found.server.load("v1", str(model))
    finally:
        process.kill()
        await process.wait()
    (start,) = started(model)
    assert start["options"]["seed"] == "3"
    await until(lambda: not is_alive(start["pids"][0]))
    os.kill(start["pids"][1], signal.SIGKILL)  # vLLM itself ends its engine on SIGTERM.
