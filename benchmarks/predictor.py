"""Speed of the predictor: decoding with 1 and 8 streams, over HTTP, and time to the first token.

`python benchmarks/predictor.py [--model DIRECTORY] [--rounds 3]`. Without a model, a random Llama
with 100 M parameters is written. Rounds are interleaved, so only ratios within one run are
meaningful; tokens per second depend on machine and load.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from services.predictor.engine.engine import AdmissionLimits
from services.predictor.engine.generation import Sampling
from services.predictor.engine.pipeline import PipelineOptions
from services.predictor.ir_cache import IrCache, convert_in_process
from services.predictor.manifest import DigestCache
from services.predictor.metrics import Metrics
from services.predictor.version import Loader, Version

CONCURRENT = 8
PROMPT_TOKENS, NEW_TOKENS = 32, 128
VOCAB, HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS = 32_000, 768, 2048, 12, 12, 4
HEAD_DIM = HIDDEN // HEADS
READY_SECONDS = 120.0
CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
    "dtype": "float16",
}

Measure = Callable[[], Awaitable[float]]


def random_tensors() -> dict[str, np.ndarray]:
    """Return random weights of a Llama with tied embeddings."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns), np.float32) * 0.05).astype(np.float16)

    ones = np.ones(HIDDEN, np.float16)
    tensors = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": ones}
    widths = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for which, width in widths.items():
            tensors[f"{name}.self_attn.{which}_proj.weight"] = matrix(width, HIDDEN)
        tensors[f"{name}.self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        for which in ("gate", "up"):
            tensors[f"{name}.mlp.{which}_proj.weight"] = matrix(WIDE, HIDDEN)
        tensors[f"{name}.mlp.down_proj.weight"] = matrix(HIDDEN, WIDE)
        tensors[f"{name}.input_layernorm.weight"] = tensors[
            f"{name}.post_attention_layernorm.weight"
        ] = ones
    return tensors


def write_random_llama(directory: Path) -> Path:
    """Write a complete model directory with random weights."""
    directory.mkdir()
    save_file(random_tensors(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    # Every token has text, as in real streams.
    words = {f"w{index}": index for index in range(VOCAB)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w0"}))
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }
    manifest = {"format": 1, "kind": "model", "version": directory.name, "files": files}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def load_in_process(
    directory: Path, name: str, cache: Path, loop: asyncio.AbstractEventLoop
) -> Version:
    """Load the engine without HTTP."""
    (cache / "graphs").mkdir(parents=True)
    loader = Loader(
        digests=DigestCache(cache / "digests.json"),
        graphs=IrCache(cache / "graphs", 2, convert_in_process),
        options=PipelineOptions(kv_blocks=256, prefill_chunk_tokens=256),
        limits=AdmissionLimits(CONCURRENT, 0),
        metrics=Metrics(),
        loop=loop,
    )
    return loader.load(name, directory)


def random_prompt(vocab_size: int, rng: np.random.Generator) -> list[int]:
    """Return a new prompt, so that the prefix cache has no effect."""
    return [int(token) for token in rng.integers(1, vocab_size, PROMPT_TOKENS)]


async def engine_tokens_per_second(
    version: Version, concurrent: int, rng: np.random.Generator
) -> float:
    """Measure decoding in process: tokens after each stream's first, divided by their time."""

    async def one() -> tuple[float, float, int]:
        sampling = Sampling(NEW_TOKENS, version.end_ids, seed=0, temperature=0.0, ignore_eos=True)
        first, count = 0.0, 0
        async for batch in version.engine.submit(random_prompt(version.vocab_size, rng), sampling):
            first, count = first or time.perf_counter(), count + len(batch.ids)
        return first, time.perf_counter(), count - 1

    return _rate(await asyncio.gather(*(one() for _ in range(concurrent))))


async def http_tokens_per_second(
    client: aiohttp.ClientSession,
    url: str,
    version: Version,
    concurrent: int,
    rng: np.random.Generator,
) -> float:
    """Measure decoding over HTTP; the client shares the machine."""

    async def one() -> tuple[float, float, int]:
        body = {
            "model": version.name,
            "prompt": random_prompt(version.vocab_size, rng),
            "max_tokens": NEW_TOKENS,
        }
        body |= {"stream": True, "temperature": 0, "ignore_eos": True}
        first = 0.0
        async with client.post(f"{url}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for _ in response.content:
                first = first or time.perf_counter()
        return first, time.perf_counter(), NEW_TOKENS - 1

    return _rate(await asyncio.gather(*(one() for _ in range(concurrent))))


def _rate(streams: list[tuple[float, float, int]]) -> float:
    began, ended = min(first for first, _, _ in streams), max(last for _, last, _ in streams)
    return sum(count for _, _, count in streams) / (ended - began)


@asynccontextmanager
async def served(cache: Path) -> Any:
    """Run the real process on a free port; yield a client and its address."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TW_")}
    key = secrets.token_hex(16)
    own = {"PORT": 0, "METRICS_PORT": 0, "MODEL_SERVER_KEY": key, "CACHE_DIRECTORY": cache}
    environment |= {f"TW_PREDICTOR_{name}": str(value) for name, value in own.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.predictor", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), READY_SECONDS)).decode()
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as client:
            yield client, f"http://127.0.0.1:{line.rsplit('port=', 1)[1].strip()}"
    finally:
        process.terminate()
        await process.communicate()


async def first_token_seconds(
    client: aiohttp.ClientSession, url: str, directory: Path, name: str
) -> float:
    """Return the time from loading an unknown checkpoint to the first token of an answer."""
    began = time.perf_counter()
    load = {"parameters": {"directory": str(directory)}}
    async with client.post(f"{url}/v2/repository/models/{name}/load", json=load) as response:
        response.raise_for_status()
    body = {
        "model": name,
        "prompt": [1] * PROMPT_TOKENS,
        "max_tokens": 1,
        "temperature": 0,
        "ignore_eos": True,
    }
    async with client.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
    return time.perf_counter() - began


async def run(directory: Path, rounds: int, scratch: Path) -> None:
    """Measure and print the results."""
    name = json.loads((directory / "manifest.json").read_text())["version"]
    rng = np.random.default_rng()
    async with served(scratch / "server") as (client, url):
        seconds = await first_token_seconds(client, url, directory, name)
        loop = asyncio.get_running_loop()
        version = await asyncio.to_thread(load_in_process, directory, name, scratch / "here", loop)
        measures: dict[str, Measure] = {
            "decode 1, in process": lambda: engine_tokens_per_second(version, 1, rng),
            "decode 8, in process": lambda: engine_tokens_per_second(version, CONCURRENT, rng),
            "decode 1, over HTTP": lambda: http_tokens_per_second(client, url, version, 1, rng),
            "decode 8, over HTTP": lambda: http_tokens_per_second(
                client, url, version, CONCURRENT, rng
            ),
        }
        results: dict[str, list[float]] = {label: [] for label in measures}
        for _ in range(rounds):
            for label, measure in measures.items():
                results[label].append(await measure())
        await asyncio.to_thread(version.engine.close)
    report(name, results, seconds)


def report(name: str, results: dict[str, list[float]], seconds: float) -> None:
    """Print environment, medians with all rounds, and ratios."""
    cpu = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        ),
        "",
    )
    wide = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
        if flag in cpu.split()
    ]
    versions = " ".join(
        f"{package} {metadata.version(package)}"
        for package in ("openvino", "openvino-genai", "aiohttp")
    )
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, {' '.join(wide)}, load"
        f" {os.getloadavg()[0]:.1f}"
    )
    print(f"software: python {platform.python_version()} {versions}")
    print(
        f"model: {name}; prompt {PROMPT_TOKENS}, {NEW_TOKENS} new tokens, greedy; tokens/s, median"
        " (rounds)"
    )
    median = {label: statistics.median(values) for label, values in results.items()}
    for label, values in results.items():
        print(
            f"  {label:<22} {median[label]:8.1f}  ({' '.join(f'{value:.1f}' for value in values)})"
        )
    one, eight = median["decode 1, in process"], median["decode 8, in process"]
    print(f"  8 at once / 1          {eight / one:8.2f}")
    print(f"  HTTP / engine, 1       {median['decode 1, over HTTP'] / one:8.2f}")
    print(f"  HTTP / engine, 8       {median['decode 8, over HTTP'] / eight:8.2f}")
    print(f"checkpoint -> first token, nothing cached: {seconds:.2f} s")


def main() -> None:
    """Parse the arguments and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model directory with its manifest")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.model or write_random_llama(Path(scratch) / "random-llama-100m")
        asyncio.run(run(directory.absolute(), options.rounds, Path(scratch)))


if __name__ == "__main__":
    main()
