"""Chain of services in front of a backend."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.channel import open_channel
from tests.faults.replica import InProcessReplica, in_process_replica

Stub = enhancer_pb2_grpc.EnhancerServiceStub


@asynccontextmanager
async def chain(length: int) -> AsyncIterator[tuple[Stub, list[InProcessReplica]]]:
    """Run a chain of replicas, started from the last, and yield a channel to the first."""
    async with AsyncExitStack() as stack:
        replicas: list[InProcessReplica] = []
        for _ in range(length):
            target = replicas[-1].target if replicas else "127.0.0.1:1"
            replicas.append(await stack.enter_async_context(in_process_replica(next_target=target)))
        channel = await stack.enter_async_context(
            open_channel(replicas[-1].target, enhancer_pb2.DESCRIPTOR)
        )
        yield Stub(channel), replicas


async def ask(stub: Stub, text: str, seconds: float = 10) -> grpc.StatusCode:
    try:
        await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
