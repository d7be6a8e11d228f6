"""Wire and run the vLLM server (`python -m infra.run.vllm_server`).

The server takes the place of the predictor on a machine without Kubernetes: same paths, one vLLM
process for each loaded version. It serves until SIGTERM, then drains and stops all processes.
"""

import asyncio
import contextlib
import logging
import signal
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from infra.machine.servers.vllm import Vllm
from infra.run.supervision.ports import free_port
from infra.run.vllm_server.app import build_app, build_metrics_app
from infra.run.vllm_server.forwarding import ForwardedRoutes, open_session
from infra.run.vllm_server.metrics import Metrics
from infra.run.vllm_server.process import VllmProcess
from infra.run.vllm_server.settings import VllmServerSettings
from infra.run.vllm_server.version import VllmLoader
from services.chassis.settings import load_settings
from services.chassis.telemetry import configure_logs, fields
from services.predictor.http.access import AccessRules
from services.predictor.http.kserve import Readiness
from services.predictor.repository import Repository, RepositoryLimits

log = logging.getLogger("infra.run.vllm_server")


def make_process(
    settings: VllmServerSettings, http: aiohttp.ClientSession, name: str, directory: Path
) -> VllmProcess:
    """Return the process of a version, not started."""
    share = settings.gpu_memory_fraction / settings.max_versions
    arguments = [
        # On a CPU kv_gigabytes sets the memory, and vLLM ignores this share.
        f"--gpu-memory-utilization={share:.3f}",
        # Without this, defaults of a request are those of the model's generation_config.json, for
        # example top_k, and the log-probs in the feedback would be those of another distribution.
        "--generation-config=vllm",
        "--enable-tokenizer-info-endpoint",
    ]
    if settings.max_model_len is not None:
        arguments.append(f"--max-model-len={settings.max_model_len}")
    vllm = Vllm(
        (settings.folder / name).absolute(),
        free_port(),
        directory,
        name,
        settings.kv_gigabytes,
        (*arguments, *settings.arguments),
        # Compiled models are shared by the versions.
        {"VLLM_CACHE_ROOT": str((settings.folder / "cache").absolute())},
        settings.enforce_eager,
    )
    return VllmProcess(vllm, settings.python, http)


async def serve(settings: VllmServerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then become not ready, drain and stop all processes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics, readiness = Metrics(), Readiness()
    limits = RepositoryLimits(
        settings.max_versions, "TW_VLLM_SERVER_MAX_VERSIONS", settings.drain_seconds
    )
    async with open_session() as http:

        async def note_end(name: str) -> None:
            metrics.process_ends.labels(name).inc()
            await versions.unload(name)

        loader = VllmLoader(partial(make_process, settings, http), settings.load_seconds, note_end)
        versions = Repository(loader.load, limits, cancel_loads=True)
        access = AccessRules(settings.model_server_key.get_secret_value(), hosts_setting="")
        app = build_app(
            *(versions, ForwardedRoutes(versions, http), readiness, metrics, access),
            settings.max_body_bytes,
        )
        # handler_cancellation: a disconnect of the client cancels the handler, which closes the
        # connection to vLLM.
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=settings.drain_seconds,
        )
        metrics_runner = web.AppRunner(build_metrics_app(versions, metrics), access_log=None)
        async with contextlib.AsyncExitStack() as stack:
            for each, port in ((runner, settings.port), (metrics_runner, settings.metrics_port)):
                await each.setup()
                stack.push_async_callback(each.cleanup)
                if each is runner or port:
                    await web.TCPSite(each, settings.host, port).start()
            # First of all: running answers are completed, and running loads end.
            stack.push_async_callback(versions.close)
            where = fields(host=settings.host, port=runner.addresses[0][1])
            log.info("listening", extra=where)
            readiness.ready = True
            await stop.wait()
            log.info("draining")
            readiness.ready = False
    log.info("stopped")


def main() -> None:
    settings = load_settings(VllmServerSettings)
    configure_logs("vllm", settings.log_format)
    logging.getLogger("infra").setLevel(logging.INFO)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
