"""Streams and metrics of the predictor."""

from typing import Any

import aiohttp

from tests.services.predictor.conftest import Predictor

# A long request within the 2048 positions of the model.
LONG = {"prompt": "abc", "max_tokens": 1900, "ignore_eos": True, "temperature": 0}


async def open_stream(predictor: Predictor, version: str, **changes: Any) -> aiohttp.ClientResponse:
    """Open a stream and return it after its first text."""
    body = {**LONG, "model": version, "stream": True, **changes}
    response = await predictor.client.post(predictor.url + "/v1/completions", json=body)
    assert response.status == 200
    await response.content.readline()
    return response


async def metrics(predictor: Predictor) -> tuple[int, str]:
    async with aiohttp.request("GET", predictor.metrics_url + "/metrics") as response:
        return response.status, await response.text()
