"""No user text in logs, whatever goes wrong."""

import logging
from contextlib import suppress

import grpc
import pytest

from tests.services.gateway.fakes import FORBIDDEN
from tests.services.gateway.house import House

CANARY = "canary-5f2d81"


async def test_what_users_write_is_in_no_log_line(gateway: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.fakes.generator.deltas = [f"answer {CANARY}"]
    fakes = gateway.fakes
    for broken in (None, fakes.guardrail, fakes.enhancer, fakes.session, fakes.generator):
        if broken:
            broken.away = True
        for text in (CANARY, f"{CANARY} {FORBIDDEN}", CANARY * 10_000):
            with suppress(grpc.aio.AioRpcError):
                await gateway.ask(text)
            body: dict[str, object] = {"input": {"text": text, CANARY: 1}}
            await _post(gateway, "/api/messages", body)
            body = {"model": "thumbwheel", "messages": [{"role": "user", "content": text}]}
            await _post(gateway, "/v1/chat/completions", body)
        if broken:
            broken.away = False
    assert len(caplog.records) > 30
    assert [record for record in caplog.records if CANARY in record.getMessage() + str(record.__dict__)] == []
    assert gateway.key not in caplog.text


async def _post(gateway: House, path: str, body: dict[str, object]) -> None:
    async with gateway.http.post(gateway.url + path, json=body, headers=gateway.headers()) as response:
        await response.read()
