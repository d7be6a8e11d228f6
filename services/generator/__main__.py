"""Wire and run the generator: rollout, model server, reconcile loop, engine, servicers.

Commands: `migrate` applies the migrations of the generator's database; `rollout`, `halt`,
`restore` and `resume` show and change the stored rollout (commands.py).
"""

import argparse
import asyncio
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2_grpc

from sequential.rows import RowsConfig
from services.chassis.channel import open_channel
from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings, program
from services.contracts.wire import now_us
from services.generator.access import CALLERS
from services.generator.answering.engine import Engine, Router, Timeouts
from services.generator.answering.external import (
    ExternalEndpoint,
    ExternalModels,
    NoModelServer,
)
from services.generator.answering.model_server_replicas import ModelServerReplicas, resolved
from services.generator.answering.plain_messages import PlainMessages
from services.generator.answering.presets import PresetError
from services.generator.commands import ACTS, USAGE_ERROR, add_commands, run_rollout_command
from services.generator.kubernetes.api import (
    NoServiceAccountError,
    open_kubernetes_api,
    read_namespace,
)
from services.generator.kubernetes.inference_services import InferenceServices, Release
from services.generator.peers import FeedbackPeer
from services.generator.rollout.canary import (
    CanaryController,
    ManifestError,
    NoCanaries,
    manifest_version,
)
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    CurrentRollout,
    RolloutStore,
    StoredRollout,
    UnusableStoreError,
)
from services.generator.rollout.reconcile import ReconcileIntervals, Reconciler, RunningGenerations
from services.generator.rollout.rollout import Deployment, Rollout, WatchTerms
from services.generator.rollout.traffic import TrafficCounter
from services.generator.rollout.watch import VersionWatch
from services.generator.servicer import (
    GENERATOR_NAME,
    ROLLOUT_NAME,
    GeneratorServicer,
    RolloutServicer,
)
from services.generator.settings import GeneratorSettings, ServingMode
from services.generator.store.fixed import ExternalServingError, FixedStore, Store
from services.generator.store.store import RolloutFile


@asynccontextmanager
async def wiring(settings: GeneratorSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open the store of the rollout and the model server, and run the background loops."""
    timeouts = Timeouts(settings.first_token_seconds, settings.idle_seconds, settings.hang_seconds)
    intervals = ReconcileIntervals(
        settings.reconcile_seconds, settings.load_retry_seconds, settings.unload_grace_seconds
    )
    async with (
        rollout_store(settings) as store,
        open_http(settings.connect_seconds, settings.model_server_key.get_secret_value()) as http,
        open_external_http(settings.connect_seconds) as external_http,
        model_server(settings, http, timeouts) as server,
        open_channel(
            settings.feedback_target,
            feedback_pb2.DESCRIPTOR,
            peer="feedback",
            tls=settings.tls_files(),
            signer=settings.token_signer("generator"),
        ) as feedback_channel,
    ):
        first = await first_rollout(store, settings.stable_directory)
        current = CurrentRollout(store, first, now_us)
        size_candidates(server, current, settings.small_candidate_share)
        running_generations = RunningGenerations()
        terms = WatchTerms(settings.watch_share, int(settings.watch_seconds * 1e6))
        traffic = TrafficCounter(store, current.watch_start_us)
        watch = create_watch(settings, current, traffic, feedback_channel, terms)
        plain_server = with_plain_messages(server, current)
        reconciler = Reconciler(current, plain_server, running_generations, intervals)
        external = settings.external()
        endpoints = {one.name: ExternalEndpoint(external_http, one, timeouts) for one in external}
        engine = await create_engine(
            settings,
            Router(current, reconciler, endpoints),
            ExternalModels(plain_server, endpoints),
            running_generations,
            traffic,
            {model.name: model.max_tokens for model in external},
        )
        canaries = create_canaries(settings, current, reconciler, terms)
        # An unknown error in a loop ends the process. A replica without its loops would keep
        # answering by an outdated rollout.
        async with asyncio.TaskGroup() as loops:
            tasks = [
                loops.create_task(loop)
                for loop in (
                    current.poll(settings.poll_seconds),
                    reconciler.run(),
                    traffic.run(),
                    watch.run(),
                )
            ]
            yield registrations(
                GeneratorServicer(engine),
                RolloutServicer(current, reconciler, canaries, traffic, external),
            )
            for task in tasks:
                task.cancel()


def with_plain_messages(
    server: ModelServerReplicas | InferenceServices | NoModelServer, current: CurrentRollout
) -> PlainMessages | NoModelServer:
    """Return a model server that no message with control tokens reaches."""
    # External endpoints have a list of control tokens of their own.
    if isinstance(server, NoModelServer):
        return server
    return PlainMessages(server, current.directory_of)


def create_canaries(
    settings: GeneratorSettings,
    current: CurrentRollout,
    reconciler: Reconciler,
    terms: WatchTerms,
) -> CanaryController | NoCanaries:
    """Create the controller of canaries; serving external has none."""
    if settings.serving is ServingMode.EXTERNAL:
        return NoCanaries(current)
    return CanaryController(current, reconciler, settings.load_seconds, terms)


def size_candidates(server: object, current: CurrentRollout, max_share: float) -> None:
    """Give candidates with at most this share of the users a small size, with KServe."""
    if isinstance(server, InferenceServices):
        server.is_small = lambda version: current.rollout.is_small_candidate(version, max_share)


def create_watch(
    settings: GeneratorSettings,
    current: CurrentRollout,
    traffic: TrafficCounter,
    feedback_channel: grpc.aio.Channel,
    terms: WatchTerms,
) -> VersionWatch:
    """Create the watch after promotions, owned by this process."""
    feedback = feedback_pb2_grpc.FeedbackLogServiceStub(feedback_channel)
    return VersionWatch(
        current,
        traffic,
        FeedbackPeer(feedback.GetVersionFeedback, settings.feedback_seconds),
        # Unique also for a restarted process of the same pod.
        f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        settings.watch_poll_seconds,
        RowsConfig() if terms.is_on else None,
    )


async def create_engine(
    settings: GeneratorSettings,
    router: Router,
    server: ExternalModels,
    running: RunningGenerations,
    traffic: TrafficCounter,
    external_tokens: Mapping[str, int],
) -> Engine:
    """Create the engine with the presets and limits of the settings.

    Raises:
        PresetError: the file of the presets is invalid.
    """
    return Engine(
        router,
        server,
        running,
        traffic,
        await asyncio.to_thread(settings.task_presets),
        settings.reply_tokens,
        settings.coalesce_seconds,
        settings.served_samples,
        external_tokens,
    )


def open_http(connect_seconds: float, key: str) -> aiohttp.ClientSession:
    """Open the session for requests to model servers, with the key in each request.

    Each request uses a new connection. The other end of a reused connection may have closed during
    an upgrade, and POST requests are not retried.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else None,
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
    )


def open_external_http(connect_seconds: float) -> aiohttp.ClientSession:
    """Open the session for requests to external models, without the key of the model servers.

    HTTPS_PROXY of the environment applies. Cookies of an endpoint would connect users' requests.
    """
    return aiohttp.ClientSession(
        headers={"User-Agent": "thumbwheel"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,
    )


@asynccontextmanager
async def model_server(
    settings: GeneratorSettings, http: aiohttp.ClientSession, timeouts: Timeouts
) -> AsyncIterator[ModelServerReplicas | InferenceServices | NoModelServer]:
    """Open the model server that the settings select.

    Raises:
        NoServiceAccountError: the files of the service account are missing (KServe only).
    """
    if settings.serving is ServingMode.EXTERNAL:
        yield NoModelServer([model.name for model in settings.external()])
        return
    if settings.serving is ServingMode.PREDICTOR or settings.models_root is None:
        yield ModelServerReplicas(
            http,
            resolved(settings.predictor_url),
            timeouts,
            settings.load_seconds,
            settings.load_retry_seconds,
        )
        return
    account = settings.kubernetes_directory
    namespace = await asyncio.to_thread(read_namespace, account)
    release = Release(
        namespace,
        settings.inference_service,
        settings.models_root,
        settings.model_port,
        settings.max_adapter_rank,
    )
    async with open_kubernetes_api(
        settings.kubernetes_url, account, settings.kubernetes_seconds
    ) as api:
        yield InferenceServices(api, http, release, timeouts, settings.load_seconds)


@asynccontextmanager
async def rollout_store(settings: GeneratorSettings) -> AsyncIterator[Store]:
    """Open the store of the settings; the rollout of serving external is in the settings.

    Raises:
        SchemaRevisionError: the database lacks migrations.
        UnavailableError: the database does not answer.
    """
    async with opened_store(settings) as store:
        external = settings.serving is ServingMode.EXTERNAL
        yield FixedStore(store, settings.stable_external()) if external else store


@asynccontextmanager
async def opened_store(settings: GeneratorSettings) -> AsyncIterator[Store]:
    """Open the database of the settings, or the rollout file.

    Raises:
        SchemaRevisionError: the database lacks migrations.
        UnavailableError: the database does not answer.
    """
    if not settings.database_url:
        yield RolloutFile(settings.rollout_file)
        return
    # Imported here because SQLAlchemy costs 0.5 s and 14 MB, and an embedded start does not need
    # the database.
    from services.generator.store.database import open_rollout_row

    async with open_rollout_row(settings.database_url, settings.database_seconds) as row:
        await row.require_migrations()
        yield row


def registrations(generator: GeneratorServicer, rollout: RolloutServicer) -> Sequence[Registration]:
    """Return the registrations of both gRPC services."""
    add_generator = generator_pb2_grpc.add_GeneratorServiceServicer_to_server
    add_rollout = generator_pb2_grpc.add_RolloutServiceServicer_to_server
    return [
        Registration(GENERATOR_NAME, add_generator, generator),
        Registration(ROLLOUT_NAME, add_rollout, rollout),
    ]


async def first_rollout(store: RolloutStore, stable_directory: Path | None) -> StoredRollout:
    """Return the stored rollout; at the very first start, store the stable version of the settings.

    If several replicas start for the first time, the first one stores its stable version and the
    others load that version.

    Raises:
        UnusableStoreError: the stored rollout cannot be decoded.
        ManifestError: the stable directory holds no finished model.
        UnavailableError: the store does not answer.
    """
    stored = await store.load()
    if stored != NOTHING_STORED or stable_directory is None:
        return stored
    stable = await asyncio.to_thread(deployment_in, stable_directory)
    await store.replace(Rollout(stable=stable), stored.serial)
    return await store.load()


def deployment_in(directory: Path) -> Deployment:
    """Return the version in a model directory. Blocking.

    Raises:
        ManifestError: the directory has no usable manifest.
    """
    return Deployment(manifest_version(directory), str(directory.absolute()))


async def run_command(options: argparse.Namespace, settings: GeneratorSettings) -> int:
    """Run a command on the stored rollout and return its exit status."""
    if settings.serving is ServingMode.EXTERNAL and options.command in ACTS:
        print(ExternalServingError(), file=sys.stderr)
        return USAGE_ERROR
    async with rollout_store(settings) as store:
        return await run_rollout_command(options, store, now_us)


def main() -> None:
    """Run the service until SIGTERM, or a command."""
    parser = argparse.ArgumentParser(prog=program("generator"), description=__doc__)
    add_commands(parser)
    options = parser.parse_args()
    settings = load_settings(GeneratorSettings)
    try:
        if options.command == "migrate":
            # Imported here so that an embedded start does not pay for SQLAlchemy.
            from services.generator.store.database import migrate

            if not settings.database_url:
                sys.exit(
                    "TW_GENERATOR_DATABASE_URL is not set; "
                    "a rollout file (TW_GENERATOR_ROLLOUT_FILE) needs no migration"
                )
            asyncio.run(migrate(settings.database_url))
        elif options.command in {None, "serve"}:
            run_service("generator", settings, wiring, CALLERS)
        else:
            sys.exit(asyncio.run(run_command(options, settings)))
    except UnavailableError as error:
        sys.exit(f"{error}: {error.__cause__}")
    except (
        SchemaRevisionError,
        UnusableStoreError,
        ManifestError,
        NoServiceAccountError,
        PresetError,
    ) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
