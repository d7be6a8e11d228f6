"""Wire and run the predictor (`python -m services.predictor`).

The process serves until SIGTERM, then drains and exits with status 0.
"""

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from services.chassis.settings import load_settings
from services.predictor.engine.engine import AdmissionLimits
from services.predictor.engine.pipeline import PipelineOptions
from services.predictor.errors import PredictorError
from services.predictor.http.access import AccessRules
from services.predictor.http.app import build_app, build_metrics_app
from services.predictor.http.kserve import Readiness
from services.predictor.ir_cache import IrCache, convert_in_process
from services.predictor.manifest import DigestCache
from services.predictor.metrics import Metrics
from services.predictor.repository import Journal, Repository, RepositoryLimits
from services.predictor.settings import PredictorSettings
from services.predictor.version import Loader, Version

log = logging.getLogger("services.predictor")
PEER_SECONDS = 5.0


class LogFormatter(logging.Formatter):
    """Formatter for one text line or one JSON object per record.

    The formatter of the chassis does the same but imports tracing, which this image does not
    contain.
    """

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Format phrase and fields; of an exception only the type."""
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0]:
            fields["error"] = record.exc_info[0].__name__
        level, phrase = record.levelname.lower(), record.getMessage()
        if self._as_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
            return json.dumps(
                {"time": stamp, "level": level, "service": "predictor", "event": phrase, **fields}
            )
        pairs = " ".join(f"{key}={value}" for key, value in fields.items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {level:<7} predictor {phrase}  {pairs}".rstrip()


def build_repository(
    settings: PredictorSettings, metrics: Metrics, journal: Journal
) -> Repository[Version]:
    """Build the repository with its loader; requires a running event loop."""
    graphs = settings.cache_directory / "graphs"
    graphs.mkdir(parents=True, exist_ok=True)
    loader = Loader(
        digests=DigestCache(settings.cache_directory / "digests.json"),
        graphs=IrCache(
            graphs,
            settings.cached_graphs,
            partial(convert_in_process, weights=settings.weights),
            settings.weights,
        ),
        options=PipelineOptions(
            kv_blocks=settings.kv_blocks,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
            threads=settings.threads,
            precision=settings.precision,
        ),
        limits=AdmissionLimits(settings.max_concurrent, settings.max_waiting),
        metrics=metrics,
        loop=asyncio.get_running_loop(),
    )
    limits = RepositoryLimits(
        settings.max_versions,
        "TW_PREDICTOR_MAX_VERSIONS",
        settings.drain_seconds,
        settings.models_root,
    )
    return Repository(
        lambda name, directory: asyncio.to_thread(loader.load, name, directory), limits, journal
    )


async def load_at_start(
    repository: Repository[Version],
    settings: PredictorSettings,
    journal: Journal,
    readiness: Readiness,
) -> str:
    """Load the versions of a peer, of the settings, and of the journal.

    The process becomes ready only if the versions of the peer and of the settings are loaded.

    Returns:
        The reason for a failed version of the settings, or an empty string.
    """
    served: dict[str, Path] = {}
    if settings.peer_url:
        key = settings.model_server_key.get_secret_value()
        served = await versions_served_by(settings.peer_url, key)
    named: dict[str, Path] = {}
    for directory in settings.startup_models:
        # In a cluster the name of the directory is only that of a mount point.
        version = directory.name
        with contextlib.suppress(OSError, ValueError):
            manifest = json.loads((directory / "manifest.json").read_bytes())
            version = str(manifest.get("version", directory.name))
        named[version] = directory.absolute()
    needed = {**served, **named}
    missing, reason = False, ""
    for version, directory in {**journal.read(), **needed}.items():
        try:
            await repository.load(version, directory)
        except PredictorError as error:
            missing = missing or version in needed
            reason = f"{version}: {error.text}" if version in named else reason
    readiness.ready = not missing
    return reason


async def versions_served_by(url: str, key: str) -> dict[str, Path]:
    """Return version and directory of all versions of another predictor; empty if unreachable.

    In a cluster the address resolves to ready pods, for example to the pod that an upgrade is about
    to end. At the first start no pod answers.
    """
    timeout, headers = aiohttp.ClientTimeout(PEER_SECONDS), {"Authorization": f"Bearer {key}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as http,
            http.post(
                f"{url}/v2/repository/index", json={"ready": True}, raise_for_status=True
            ) as answer,
        ):
            served = {str(entry["name"]): Path(entry["directory"]) for entry in await answer.json()}
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
        log.info("no peer", extra={"fields": {"reason": type(error).__name__}})
        return {}
    log.info("peer serves versions", extra={"fields": {"versions": ",".join(sorted(served))}})
    return served


async def start_failure(starting: asyncio.Task[str], stop: asyncio.Event) -> str:
    """Wait for the start and return its failure.

    The result is empty if all versions are loaded or `stop` was set before.
    """
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        return ""
    error = starting.exception()
    return f"load failed: {type(error).__name__}" if error else starting.result()


async def serve(settings: PredictorSettings) -> int:
    """Serve until SIGTERM or SIGINT, then become not ready and drain.

    Returns:
        The exit status, 1 if a version of the settings could not be loaded.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics, readiness = Metrics(), Readiness()
    journal = Journal(settings.cache_directory / "loaded.json")
    repository = build_repository(settings, metrics, journal)
    access = AccessRules(
        settings.model_server_key.get_secret_value(),
        settings.require_key,
        tuple(host.lower() for host in settings.allowed_hosts),
    )
    app = build_app(
        repository, readiness, metrics, access, settings.default_max_tokens, settings.max_body_bytes
    )
    # handler_cancellation: a disconnect of the client cancels the handler, which cancels the
    # generation.
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=settings.drain_seconds
    )
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    await site.start()
    metrics_runner = web.AppRunner(build_metrics_app(metrics), access_log=None)
    await metrics_runner.setup()
    if settings.metrics_port:
        await web.TCPSite(metrics_runner, settings.host, settings.metrics_port).start()
    log.info("listening", extra={"fields": {"host": settings.host, "port": runner.addresses[0][1]}})
    starting = asyncio.create_task(load_at_start(repository, settings, journal, readiness))
    reason = ""
    if settings.failure_file is not None and (reason := await start_failure(starting, stop)):
        log.error("startup model not loaded")
        await asyncio.to_thread(settings.failure_file.write_text, reason)
    else:
        await stop.wait()
    log.info("draining")
    readiness.ready = False
    # Close idle connections, since a later request on such a connection would reach only this
    # process and be refused.
    await site.stop()
    for connection in runner.server.connections if runner.server else ():
        # aiohttp's pre_shutdown() leaves idle connections open until cleanup() without answering on
        # them.
        if connection._request_in_progress:
            connection.close()
        else:
            connection.force_close()
    starting.cancel()
    await asyncio.wait([starting])
    await repository.close()
    await runner.cleanup()
    await metrics_runner.cleanup()
    log.info("stopped")
    return 1 if reason else 0


def main() -> int:
    """Read the settings, serve, and return the exit status."""
    settings = load_settings(PredictorSettings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(settings.log_format == "json"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(logging.INFO)
    return asyncio.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
