"""Wires the generator: rollout, model server, reconcile loop, engine, servicers. With `migrate`:
its database, step by step.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from thumbwheel.generator.v1 import generator_pb2_grpc

from services.chassis.errors import UnavailableError
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.generator.access import CALLERS
from services.generator.canary import Canaries
from services.generator.engine import Engine, Patience
from services.generator.inference_services import InferenceServices, Place
from services.generator.kubernetes_api import (
    NoServiceAccountError,
    open_kubernetes_api,
    read_namespace,
)
from services.generator.manifest import NoManifestError, manifest_version
from services.generator.model_server import HttpModelServer
from services.generator.presets import PresetError
from services.generator.reconcile import Pace, Reconciler
from services.generator.rollout import Deployment, Rollout
from services.generator.routing import Router
from services.generator.running import Running
from services.generator.servicer import (
    GENERATOR_NAME,
    ROLLOUT_NAME,
    GeneratorServicer,
    RolloutServicer,
)
from services.generator.settings import GeneratorSettings, Serving
from services.generator.store import RolloutFile
from services.generator.traffic import (
    NOTHING_STORED,
    RolloutStore,
    Stored,
    Traffic,
    UnusableStoreError,
)


@asynccontextmanager
async def wiring(settings: GeneratorSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open the store of the rollout, the model server and the two loops."""
    patience = Patience(settings.first_token_seconds, settings.idle_seconds, settings.hang_seconds)
    pace = Pace(
        settings.reconcile_seconds, settings.load_retry_seconds, settings.unload_grace_seconds
    )
    async with (
        rollout_store(settings) as store,
        open_http(settings.connect_seconds) as http,
        model_server(settings, http, patience) as server,
    ):
        traffic = Traffic(store, await first_rollout(store, settings.stable_directory), now_us)
        running = Running()
        reconciler = Reconciler(traffic, server, running, pace)
        engine = Engine(
            Router(traffic, reconciler),
            server,
            running,
            await asyncio.to_thread(settings.task_presets),
            settings.reply_tokens,
            settings.coalesce_seconds,
            settings.served_samples,
        )
        canaries = Canaries(traffic, reconciler, settings.load_seconds)
        # A loop that dies of an unknown error ends the process: a replica without it would answer
        # by an old rollout for ever.
        async with asyncio.TaskGroup() as loops:
            tasks = [
                loops.create_task(loop)
                for loop in (traffic.follow(settings.poll_seconds), reconciler.run())
            ]
            yield registrations(engine, traffic, reconciler, canaries)
            for task in tasks:
                task.cancel()


def open_http(connect_seconds: float) -> aiohttp.ClientSession:
    """To model servers; each request on a connection of its own: the other end of one that was kept
    may have gone in an upgrade, and nobody repeats a POST.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
    return aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True)
    )


@asynccontextmanager
async def model_server(
    settings: GeneratorSettings, http: aiohttp.ClientSession, patience: Patience
) -> AsyncIterator[HttpModelServer | InferenceServices]:
    """What holds the versions and answers for them. Raises: NoServiceAccountError."""
    if settings.serving is Serving.PREDICTOR or settings.models_root is None:
        yield HttpModelServer(http, settings.predictor_url, patience, settings.load_seconds)
        return
    account = settings.kubernetes_directory
    namespace = await asyncio.to_thread(read_namespace, account)
    place = Place(namespace, settings.inference_service, settings.models_root, settings.model_port)
    async with open_kubernetes_api(
        settings.kubernetes_url, account, settings.kubernetes_seconds
    ) as api:
        yield InferenceServices(api, http, place, patience, settings.load_seconds)


@asynccontextmanager
async def rollout_store(settings: GeneratorSettings) -> AsyncIterator[RolloutStore]:
    """The database of the settings, or the file. Raises: UnusableStoreError, UnavailableError."""
    if not settings.database_url:
        yield RolloutFile(settings.rollout_file)
        return
    # Here, because it costs half a second and 14 MB, and an embedded start needs none of it.
    from services.generator.database import open_rollout_row

    async with open_rollout_row(settings.database_url, settings.database_seconds) as row:
        await row.require_migrations()
        yield row


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


async def first_rollout(store: RolloutStore, stable_directory: Path | None) -> Stored:
    """What is stored; at the very first start, the stable version of the settings of whoever comes
    first.

    Raises:
        UnusableStoreError: what is stored cannot be understood.
        NoManifestError: the stable directory holds no finished model.
        UnavailableError: the store is away.
    """
    stored = await store.load()
    if stored != NOTHING_STORED or stable_directory is None:
        return stored
    stable = await asyncio.to_thread(deployment_in, stable_directory)
    await store.replace(Rollout(stable=stable), stored.serial)
    return await store.load()


def deployment_in(directory: Path) -> Deployment:
    """The version that lies there. Blocking. Raises: NoManifestError."""
    return Deployment(manifest_version(directory), str(directory.absolute()))


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def main() -> None:
    """Run until SIGTERM, or migrate."""
    parser = argparse.ArgumentParser(prog="python -m services.generator", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    command = parser.parse_args().command
    settings = load_settings(GeneratorSettings)
    if command == "migrate":
        # Here, so that no start of the service pays for it.
        from services.generator.migrate import migrate

        if not settings.database_url:
            sys.exit(
                "TW_GENERATOR_DATABASE_URL is not set: the rollout lives in a file, which needs no migration"
            )
        asyncio.run(migrate(settings.database_url))
        return
    try:
        run_service("generator", settings, wiring, CALLERS)
    except UnavailableError as error:
        sys.exit(f"{error}: {error.__cause__}")
    except (UnusableStoreError, NoManifestError, NoServiceAccountError, PresetError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
