"""Metrics of the canary watch by version: tokens, time to first text, and finish reasons."""

import asyncio
from pathlib import Path

from prometheus_client import REGISTRY

from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import ask, generator_service, model_directory, until_ready


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_generations_are_counted_by_version_and_finish_reason(tmp_path: Path) -> None:
    version = "counted"
    predictor = FakePredictor()
    async with predictor_server(predictor) as port:
        directory = model_directory(tmp_path, version)
        async with generator_service(tmp_path, port, stable_directory=directory) as stubs:
            await until_ready(stubs, version)
            await stubs.generate()
            predictor.refusal = (429, {"error": {}})
            await asyncio.gather(stubs.generate(), return_exceptions=True)
            predictor.refusal, predictor.silent_after = None, 1
            call = stubs.generator.Generate(ask(), timeout=20)
            async for event in call:
                if event.text_delta:
                    break
            assert value("thumbwheel_generations_running", version=version) == 1
            call.cancel()
            async with asyncio.timeout(5):
                while value("thumbwheel_generations_running", version=version):
                    await asyncio.sleep(0.01)
            assert value("thumbwheel_version_ready", version=version) == 1
    for reason in ("stop", "model_queue_full", "cancelled"):
        assert (
            value("thumbwheel_generations_total", version=version, arm="stable", reason=reason) == 1
        ), reason
    assert value("thumbwheel_tokens_total", version=version, kind="prompt") == 7
    assert value("thumbwheel_tokens_total", version=version, kind="completion") == 3
    assert value("thumbwheel_first_text_seconds_count", version=version) == 2
