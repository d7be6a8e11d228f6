"""Users of either version of a canary, and conditions of its tests."""

import asyncio
from typing import Any

import grpc

from services.chassis.errors import ServiceError, from_rpc
from services.generator.rollout.rollout import user_fraction

CANDIDATES_USER = next(f"user {n}" for n in range(100) if user_fraction("v2", f"user {n}") < 0.5)
STABLES_USER = next(f"user {n}" for n in range(100) if user_fraction("v2", f"user {n}") >= 0.5)


async def error_of(call: Any) -> ServiceError:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc(error, "generator")
    raise AssertionError("the call succeeded")


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)
