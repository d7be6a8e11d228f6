"""Wires the generator: rollout file, model server, reconcile loop, engine, servicers."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from thumbwheel.generator.v1 import generator_pb2_grpc

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.generator.access import CALLERS
from services.generator.canary import Canaries
from services.generator.engine import Engine, Patience
from services.generator.manifest import NoManifestError, manifest_version
from services.generator.model_server import HttpModelServer
from services.generator.reconcile import Reconciler
from services.generator.rollout import Deployment, Rollout
from services.generator.routing import Router
from services.generator.running import Running
from services.generator.servicer import GENERATOR_NAME, ROLLOUT_NAME, GeneratorServicer, RolloutServicer
from services.generator.settings import GeneratorSettings
from services.generator.store import RolloutFile, RolloutFileError
from services.generator.traffic import Traffic


@asynccontextmanager
async def wiring(settings: GeneratorSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open the model server and the reconcile loop."""
    keeper = RolloutFile(settings.rollout_file)
    rollout = await asyncio.to_thread(first_rollout, keeper, settings.stable_directory)
    patience = Patience(settings.first_token_seconds, settings.idle_seconds)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        server = HttpModelServer(http, settings.predictor_url, patience, settings.load_seconds)
        traffic, running = Traffic(rollout, keeper, now_us), Running()
        reconciler = Reconciler(traffic, server, running, settings.reconcile_seconds, settings.load_retry_seconds)
        router = Router(traffic, reconciler)
        engine = Engine(router, server, running, settings.reply_tokens, settings.coalesce_seconds)
        canaries = Canaries(traffic, reconciler, settings.load_seconds)
        reconciling = asyncio.create_task(reconciler.run())
        try:
            yield registrations(engine, traffic, reconciler, canaries)
        finally:
            reconciling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reconciling


def registrations(
    engine: Engine, traffic: Traffic, reconciler: Reconciler, canaries: Canaries
) -> Sequence[Registration]:
    """Both services."""
    add_generator = generator_pb2_grpc.add_GeneratorServiceServicer_to_server
    add_rollout = generator_pb2_grpc.add_RolloutServiceServicer_to_server
    return [
        Registration(GENERATOR_NAME, add_generator, GeneratorServicer(engine)),
        Registration(ROLLOUT_NAME, add_rollout, RolloutServicer(traffic, reconciler, canaries)),
    ]


def first_rollout(keeper: RolloutFile, stable_directory: Path | None) -> Rollout:
    """What the file says; at the very first start, the stable version of the settings.

    Raises:
        RolloutFileError: the file cannot be understood.
        NoManifestError: the stable directory holds no finished model.
    """
    stored = keeper.load()
    if stored is not None or stable_directory is None:
        return stored or Rollout()
    directory = stable_directory.absolute()
    rollout = Rollout(stable=Deployment(manifest_version(directory), str(directory)))
    keeper.save(rollout)
    return rollout


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def main() -> None:
    """Run until SIGTERM."""
    try:
        run_service("generator", load_settings(GeneratorSettings), wiring, CALLERS)
    except (RolloutFileError, NoManifestError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
