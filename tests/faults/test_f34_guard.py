"""F34: the guard is unavailable, hangs or is slow. No unchecked word becomes visible."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2

from infra.simulate.faults.tcp import Fault, TcpFaults, TcpProxy
from services.chassis.errors import ServiceError
from tests.services.gateway.calls import read_to_error, until
from tests.services.gateway.fakes import Backends, backends
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway_over, text_of

GUARD_SECONDS = 0.5
TURNS = 10


@asynccontextmanager
async def guarded(
    directory: Path, **changes: Any
) -> AsyncIterator[tuple[GatewayUnderTest, TcpProxy, Backends]]:
    """Run a gateway with a proxy in front of its guard."""
    async with backends() as (fakes, target):
        with TcpProxy(int(target.rpartition(":")[2])) as proxy:
            settings = {
                "guardrail_target": f"127.0.0.1:{proxy.port}",
                "guard_seconds": GUARD_SECONDS,
                **changes,
            }
            async with run_gateway_over(directory, fakes, target, **settings) as gateway:
                yield gateway, proxy, fakes


async def errors_of(
    gateway: GatewayUnderTest, turns: int
) -> tuple[list[ServiceError], list[float]]:
    """Return errors and durations of turns that must not be answered."""
    errors, seconds = [], []
    for number in range(turns):
        began = time.monotonic()
        events, error = await read_to_error(
            gateway.send(f"Question {number}", request_id=f"r{number}")
        )
        seconds.append(time.monotonic() - began)
        errors.append(error)
        assert text_of(events) == ""
    return errors, sorted(seconds)


async def test_f34_missing_guard_blocks_generation_with_an_error(
    tmp_path: Path, record_property: Any
) -> None:
    async with guarded(tmp_path, guardrail_target="127.0.0.1:1") as (gateway, _, fakes):
        errors, seconds = await errors_of(gateway, TURNS)
        assert {error.code for error in errors} == {grpc.StatusCode.UNAVAILABLE}
        assert fakes.generator.requests == []
        # The messages are stored, their answers remain open.
        assert (len(fakes.session.messages), fakes.session.finished) == (2 * TURNS, {})
    record_property("fired", TURNS)
    record_property("away_told_after_p50_ms", round(seconds[TURNS // 2] * 1000))


async def test_f34_hanging_guard_times_out_without_generation(
    tmp_path: Path, record_property: Any
) -> None:
    async with guarded(tmp_path) as (gateway, proxy, fakes):
        await gateway.ask("first")
        proxy.faults, generated = TcpFaults(silent=True), len(fakes.generator.requests)
        errors, seconds = await errors_of(gateway, 3)
        assert {error.code for error in errors} <= {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }
        assert len(fakes.generator.requests) == generated
        assert proxy.counts[Fault.SILENCED] > 0
        proxy.faults = TcpFaults()
        assert text_of(await gateway.ask("Question 0", request_id="r0")) == "The answer is 42."
    record_property("fired", proxy.counts[Fault.SILENCED])
    record_property("hanging_told_after_p50_ms", round(seconds[1] * 1000))


@pytest.mark.parametrize(
    "fault", [TcpFaults(silent=True), TcpFaults(reset_up_bytes=0)], ids=["hangs", "is cut off"]
)
async def test_f34_only_checked_text_of_an_answer_is_shown_and_stored(
    tmp_path: Path, fault: TcpFaults, record_property: Any
) -> None:
    async with guarded(tmp_path) as (gateway, proxy, fakes):
        shown = asyncio.Event()

        async def gate(number: int) -> None:
            if number == 1:
                await shown.wait()

        fakes.generator.gate = gate
        reading = asyncio.create_task(read_to_error(gateway.send("What is it?", request_id="r")))
        await until(lambda: len(fakes.guardrail.outputs) == 1)
        await asyncio.sleep(0.1)
        proxy.faults = fault
        shown.set()
        events, error = await reading
        struck = proxy.counts[Fault.SILENCED] + proxy.counts[Fault.RESET]
        assert struck > 0
        assert error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert text_of(events) == fakes.guardrail.outputs[0].pending == "The "
        assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_FAILED
        await until(lambda: events[0].message_id in fakes.session.finished)
        assert fakes.session.finished[events[0].message_id].text == "The "
    record_property("fired", struck)


async def test_f34_slow_guard_delays_an_answer_without_skipping_checks(
    tmp_path: Path, record_property: Any
) -> None:
    async with guarded(tmp_path, guard_seconds=5.0) as (gateway, proxy, fakes):
        proxy.faults = TcpFaults(latency_seconds=0.1)
        events = await gateway.ask()
        assert (
            text_of(events)
            == "The answer is 42."
            == "".join(check.pending for check in fakes.guardrail.outputs)
        )
        assert proxy.counts[Fault.DELAYED] >= 4
    record_property("fired", proxy.counts[Fault.DELAYED])
