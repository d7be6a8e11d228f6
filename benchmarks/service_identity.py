"""Cost of signed calls between services, as ratios to unsigned calls within a run.

Usage: `python -m benchmarks.service_identity`. One process has a client and two servers on
loopback, one of which requires tokens; the calls alternate, so that load of the machine affects
both. "new" calls are for a new user each, and therefore sign and verify a token; "repeated" calls
are for one user, as the checks of the parts of an answer are.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.channel import call_unary, open_channel
from services.chassis.identity import CallContext, Caller, bind_call
from services.chassis.identity_keys import create_key_pair
from services.chassis.server import Registration, serving
from services.chassis.service_identity import TokenSigner, TokenVerifier
from services.chassis.settings import ServiceSettings

NAME = "thumbwheel.enhancer.v1.EnhancerService"
METHOD = f"/{NAME}/Enhance"
CALLERS = {f"{NAME}.Enhance": frozenset({"gateway"})}
REQUEST = enhancer_pb2.EnhanceRequest(text="hello")


class Echo(enhancer_pb2_grpc.EnhancerServiceServicer):
    """Servicer without work: only the cost of the call remains."""

    async def Enhance(self, request: Any, context: Any) -> enhancer_pb2.EnhanceResponse:
        return enhancer_pb2.EnhanceResponse(text=request.text)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="calls of each kind")
    count = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        key, public = Path(folder, "gateway.key"), Path(folder, "public")
        create_key_pair("gateway", key, public)
        users = map("user-{}".format, itertools.count())
        async with AsyncExitStack() as stack:
            stubs = {}
            for name, keys, signer in (
                ("unsigned", None, None),
                ("signed", public, TokenSigner("gateway", key)),
            ):
                values = {"port": 0, "identity_keys": keys, "lame_duck_seconds": 0}
                settings = ServiceSettings.model_validate(values)
                add = enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server
                registrations = [Registration(NAME, add, Echo())]
                port = await stack.enter_async_context(serving(settings, registrations, CALLERS))
                channel = open_channel(f"127.0.0.1:{port}", signer=signer)
                stubs[name] = enhancer_pb2_grpc.EnhancerServiceStub(
                    await stack.enter_async_context(channel)
                )
            for kind, names in (("repeated", itertools.repeat("user")), ("new", users)):
                await compare(kind, stubs, names, count)
        signing, verifying = TokenSigner("gateway", key), TokenVerifier(public, required=True)
        tokens = [(caller, signing.token(METHOD, caller)) for caller in callers(users, count)]
        print_step("sign", count, lambda: [signing.token(METHOD, c) for c in callers(users, count)])
        for step in ("verify", "verify again"):
            print_step(
                step,
                count,
                lambda: [
                    verifying.verify(METHOD, caller, [("x-tw-identity", token)])
                    for caller, token in tokens
                ],
            )


def callers(users: Iterator[str], count: int) -> list[Caller]:
    return [Caller("bench", next(users)) for _ in range(count)]


async def compare(kind: str, stubs: dict[str, Any], users: Iterator[str], count: int) -> None:
    """Print the medians of alternating calls and their ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in stubs}
    for number in range(count + 50):  # the first 50 calls warm up
        bind_call(CallContext(Caller("bench", next(users)), "request"))
        for name, stub in stubs.items():
            started = time.perf_counter()
            await call_unary("enhancer", stub.Enhance, REQUEST, within_seconds=10)
            if number >= 50:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratio = medians["signed"] / medians["unsigned"]
    figures = ", ".join(f"{name} {median * 1e3:.2f} ms" for name, median in medians.items())
    print(f"{kind:>12}: signed / unsigned = {ratio:.2f} (medians: {figures})")


def print_step(name: str, count: int, step: Callable[[], object]) -> None:
    """Print the mean time of a step, executed `count` times."""
    started = time.perf_counter()
    step()
    print(f"{name:>12}: {(time.perf_counter() - started) / count * 1e6:.0f} µs")


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
