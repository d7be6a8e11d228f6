"""Adapters of one base at one real vLLM, its CPU build, with the chart's arguments and variables.

A tiny Llama in float32. KServe is played by a status that names vLLM's address.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from google.protobuf.duration_pb2 import Duration
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from chat_format.tokenizer_check import write_token_ids
from infra.machine.servers import vllm
from infra.machine.servers.vllm import Vllm
from infra.run.supervision.ports import free_port
from tests.charts.kserve_objects import runtime_of, service_of
from tests.servers import VLLM_READY_SECONDS, Server, running
from tests.services.generator.canaries import CANDIDATES_USER, STABLES_USER
from tests.services.generator.fake_kubernetes import (
    FakeKubernetes,
    kserve_settings,
    kubernetes_api,
    ready,
)
from tests.services.generator.service import Stubs, ask, generator_service, until_ready
from tests.services.predictor.model_directories import write_manifest, write_model
from tests.training.adapter_chains import train_adapter
from training.data.chat import Message, load_chat
from training.model.checkpoint import load_decoder
from training.model.lora import LoraConfig

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

VALUES, SHARED = "gpu-values.yaml", "serving.vllm.sharedBase.enabled=true"
BASE, QUESTION = "tiny-0", "What is the capital of France?"
MAX_RANK = 64
ANSWER_SECONDS = 600.0
# docs/decisions/vllm.md: float32.
LIMIT_NATS = 1e-3
LORA = LoraConfig(rank=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models: a base and three runs of two stages, one after another."""
    root = tmp_path_factory.mktemp("generator")
    models = root / "models"
    # vLLM's CPU build needs heads of at least 32.
    write_model(models / BASE, BASE, head_dim=32)
    write_token_ids(models / BASE)
    write_manifest(models / BASE, BASE)
    parent = BASE
    for run in (1, 2, 3):
        sft, version = models / f"tiny-{run}-sft", models / f"tiny-{run}"
        train_adapter(models / parent, sft, LORA, seed=10 * run)
        found = train_adapter(sft, version, LORA, seed=10 * run + 1)
        assert found == {"base": BASE, "rank": 8 * run, "relative_error": 0.0}
        parent = version.name
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """Start vLLM as the chart does, with the folder of the models in place of the claim."""
    container = runtime_of(VALUES, SHARED)["spec"]["containers"][0]
    *_, name = service_of(VALUES, SHARED, version=BASE, folder=BASE)["spec"]["predictor"]["model"][
        "command"
    ]
    variables = {
        item["name"]: item["value"].replace(container["workingDir"], str(root / "models"))
        for item in container["env"]
        if "LORA" in item["name"] or item["name"] == "VLLM_PLUGINS"
    }
    assert len(variables) == 3
    arguments = [word for word in container["args"] if "lora" in word]
    started = Vllm(
        tmp_path_factory.mktemp("vllm"),
        free_port(),
        Path(name),
        BASE,
        arguments=(*arguments, "--dtype=float32", "--max-model-len=256"),
        environment=variables,
    )
    (program,) = started.prepare(vllm.find_installed())
    inside = replace(program, command=("env", f"--chdir={root / 'models'}", *program.command))
    with running(Server((inside,), started.folder, VLLM_READY_SECONDS)):
        yield started


@asynccontextmanager
async def generator_at(root: Path, server: Vllm, **changes: Any) -> AsyncIterator[Stubs]:
    kubernetes = FakeKubernetes()

    async def keep_ready() -> None:
        while True:
            # One server: an object of another version would not find its pod.
            assert kubernetes.versions() <= {BASE}
            for version in kubernetes.versions():
                kubernetes.of_version(version)["status"] = ready(server.url)
            await asyncio.sleep(0.1)

    settings = {
        "stable_directory": root / "models" / BASE,
        "rollout_file": changes["rollout_file"],
        "model_server_key": server.key,
        "max_adapter_rank": MAX_RANK,
        "first_token_seconds": ANSWER_SECONDS,
        "idle_seconds": ANSWER_SECONDS,
        "hang_seconds": 60.0,
        "load_seconds": 300.0,
    }
    async with kubernetes_api(kubernetes, root / "account") as url:
        kserve = asyncio.create_task(keep_ready())
        try:
            async with generator_service(root, 0, **kserve_settings(root, url) | settings) as stubs:
                yield stubs
        finally:
            kserve.cancel()


async def answer(stubs: Stubs, user: str, max_tokens: int) -> list[Any]:
    sampling = chat_pb2.SamplingOverrides(max_tokens=max_tokens)
    request = ask(QUESTION, user_key=user, sampling=sampling)
    return [event async for event in stubs.generator.Generate(request, timeout=ANSWER_SECONDS)]


async def make_candidate(stubs: Stubs, root: Path, version: str) -> None:
    request = generator_pb2.StartCanaryRequest(
        version=version,
        directory=str(root / "models" / version),
        share=0.5,
        lease=Duration(seconds=3600),
    )
    await stubs.rollout.StartCanary(request, timeout=ANSWER_SECONDS)


async def mismatch(stubs: Stubs, root: Path, user: str, version: str) -> float:
    """Return the mean difference of an answer's log-probs from the merged model's, in nats."""
    events = await answer(stubs, user, max_tokens=12)
    assert events[0].selected.model_version == version
    sample = events[-1].finished.sample
    assert sample.token_ids
    merged = log_probs(root, version, sample.token_ids)
    return float((merged - torch.tensor(sample.log_probs)).abs().mean())


def log_probs(root: Path, version: str, token_ids: Any) -> torch.Tensor:
    """Return the log-probs of an answer by the merged weights of a version."""
    directory = root / "models" / version
    prompt = load_chat(directory).prompt_ids([Message("user", QUESTION)])
    ids = torch.tensor([[*prompt, *token_ids]])
    decoder = load_decoder(directory)
    with torch.no_grad():
        logits = decoder.logits(decoder(ids))[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]


async def test_two_versions_of_one_base_answer_as_their_merged_weights(
    root: Path,
    server: Vllm,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    async with generator_at(root, server, rollout_file=tmp_path / "rollout.json") as stubs:
        await until_ready(stubs, BASE)
        figures = {BASE: await mismatch(stubs, root, STABLES_USER, BASE)}
        await make_candidate(stubs, root, "tiny-1")
        await stubs.promote("tiny-1")
        await make_candidate(stubs, root, "tiny-2")
        users: dict[str, str] = {}
        for user in (STABLES_USER, CANDIDATES_USER, *map(str, range(12))):
            events = await answer(stubs, user, max_tokens=1)
            users.setdefault(events[0].selected.model_version, user)
        assert set(users) == {"tiny-1", "tiny-2"}
        # At the same time, so that both are in one batch.
        both = await asyncio.gather(
            *(mismatch(stubs, root, user, version) for version, user in users.items())
        )
        figures |= dict(zip(users, both, strict=True))
        # A third adapter takes the place of the first one on the server, which can return.
        await stubs.promote("tiny-2")
        await make_candidate(stubs, root, "tiny-3")
        await stubs.promote("tiny-3")
        figures["tiny-3"] = await mismatch(stubs, root, STABLES_USER, "tiny-3")
        await make_candidate(stubs, root, "tiny-1")
        await stubs.promote("tiny-1")
        figures["tiny-1 again"] = await mismatch(stubs, root, STABLES_USER, "tiny-1")
    for version, nats in figures.items():
        record_property(f"mismatch_nats_{version}", nats)
    assert {version for version, nats in figures.items() if nats > LIMIT_NATS} == set()
    # The versions differ by much more than the limit.
    ids = list(range(40, 60))
    assert abs(log_probs(root, "tiny-1", ids) - log_probs(root, "tiny-2", ids)).mean() > 0.05


async def test_names_of_vllm(root: Path, server: Vllm) -> None:
    """The list of models names adapters by folder; metrics count them under the base."""
    adapter = "tiny-1/base_adapter"
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as http:
        body = {"model": adapter, "prompt": [5, 6, 7], "max_tokens": 2}
        async with http.post("/v1/completions", json=body) as response:
            assert response.status == 200
        async with http.get("/v1/models") as response:
            listed = {item["id"]: item for item in (await response.json())["data"]}
        async with http.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        assert listed[adapter]["parent"] == BASE
        named = {line.split('model_name="')[1] for line in lines if "model_name" in line}
        assert {name.split('"')[0] for name in named} == {BASE}
        # vLLM itself refuses an adapter whose base has another name, and a path without one.
        for name in ("tiny-1/adapter", "tiny-1", "../models/none"):
            async with http.post("/tokenize", json={"model": name, "prompt": "a"}) as response:
                assert response.status == 404
        load = {"lora_name": "x", "lora_path": str(root / "models" / adapter)}
        async with aiohttp.request("POST", f"{server.url}/v1/load_lora_adapter", json=load) as told:
            assert told.status == 401
