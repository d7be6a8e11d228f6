"""F30: the model server is killed with SIGKILL during an answer."""

import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.errors import from_rpc
from tests.faults.generator import model_server
from tests.services.generator.service import ask, generator_service, text_of, until_ready


async def test_interrupted_answer_has_a_reason_and_the_next_is_complete(
    tmp_path: Path, record_property: Any
) -> None:
    words = ["word "] * 100
    async with (
        model_server(script=words, pace_seconds=0.02) as server,
        generator_service(tmp_path, server.port) as stubs,
    ):
        await until_ready(stubs, "v1")
        events: list[Any] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in stubs.generator.Generate(ask(), timeout=30):
                events.append(event)
                if len(events) == 4:
                    await server.kill()
                    killed = time.monotonic()
        record_property("fired", 1)
        record_property("detected_seconds", round(time.monotonic() - killed, 3))
        assert time.monotonic() - killed <= 10
        error = from_rpc(caught.value, "generator")
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_LOST")
        assert 0 < len(text_of(events)) < len("".join(words))
        assert not any(event.HasField("finished") for event in events), (
            "a part is never called a whole"
        )

        await server.start()
        await until_ready(stubs, "v1")
        assert text_of(await stubs.generate()) == "".join(words)
        counters = await server.counters()
    assert (counters["loads"], counters["words"]) == (["v1"], len(words)), (
        "one load, and one answer"
    )
