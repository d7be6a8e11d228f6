"""The enhancer service in the process of a test, called over gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from thumbwheel.enhancer.v1 import enhancer_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.server import Registration, serving
from services.enhancer.prompt import Enhancer
from services.enhancer.servicer import NAME, EnhancerServicer
from services.enhancer.settings import EnhancerSettings


@asynccontextmanager
async def client(enhancer: Enhancer) -> AsyncIterator[enhancer_pb2_grpc.EnhancerServiceStub]:
    """Serve the enhancer in this process and yield its stub."""
    add = enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server
    settings = EnhancerSettings(port=0, drain_seconds=0, lame_duck_seconds=0)
    async with (
        serving(settings, [Registration(NAME, add, EnhancerServicer(enhancer))]) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield enhancer_pb2_grpc.EnhancerServiceStub(channel)
