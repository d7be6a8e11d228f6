"""The guardrail service in the process of a test, called over gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from thumbwheel.guardrail.v1 import guardrail_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.server import Registration, serving
from services.guardrail.guard import Guard
from services.guardrail.servicer import NAME, GuardrailServicer
from services.guardrail.settings import GuardrailSettings


@asynccontextmanager
async def client(guard: Guard) -> AsyncIterator[guardrail_pb2_grpc.GuardrailServiceStub]:
    """Serve the guardrail in this process and yield its stub."""
    add = guardrail_pb2_grpc.add_GuardrailServiceServicer_to_server
    settings = GuardrailSettings(port=0, drain_seconds=0, lame_duck_seconds=0)
    async with (
        serving(settings, [Registration(NAME, add, GuardrailServicer(guard))]) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield guardrail_pb2_grpc.GuardrailServiceStub(channel)
