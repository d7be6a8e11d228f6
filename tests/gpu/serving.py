"""Tokens per second of a model server with several streams."""

from __future__ import annotations

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

STREAMS, PROMPT_TOKENS, ANSWER_TOKENS, SECONDS = 8, 128, 256, 600


def served_tokens_per_second(url: str, key: str, model: str, streams: int = STREAMS) -> float:
    """Return the generated tokens per second of all streams together, after a request to warm up.

    Each answer has ANSWER_TOKENS tokens: the server ignores end tokens.
    """

    def answer(seed: int) -> int:
        body = {
            "model": model,
            # Different prompts share no blocks of the prefix cache.
            "prompt": [seed + 3] * PROMPT_TOKENS,
            "max_tokens": ANSWER_TOKENS,
            "ignore_eos": True,
            "seed": seed,
        }
        request = urllib.request.Request(
            f"{url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return int(json.load(response)["usage"]["completion_tokens"])

    answer(0)
    started = time.perf_counter()
    with ThreadPoolExecutor(streams) as threads:
        tokens = sum(threads.map(answer, range(1, streams + 1)))
    return tokens / (time.perf_counter() - started)
