"""Life cycle of a service process: wire, serve, drain, exit 0.

SIGTERM → health NOT_SERVING → lame duck → no new calls, `drain_seconds` for running calls → the
wiring closes its resources.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import uvloop
from grpc_reflection.v1alpha import reflection
from prometheus_client import make_wsgi_app, start_http_server

from services.chassis import health
from services.chassis.admission import Admission
from services.chassis.calls.answers import prepare_event_loop
from services.chassis.calls.interceptor import Authorize, CallInterceptor
from services.chassis.channel import KEEPALIVE_OPTIONS
from services.chassis.identity_keys import IdentityKeyError
from services.chassis.mutual_tls import AllowedCallers, TlsFilesError, server_credentials
from services.chassis.settings import ServiceSettings
from services.chassis.telemetry import configure_logs, configure_traces, fields, measure_loop_lag

log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


@dataclass(frozen=True)
class Registration:
    """One gRPC service of a server.

    Args:
        name: full name, for health and reflection.
        add: the generated function add_…Servicer_to_server.
        servicer: implementation of the service.
        authorize: check of the callers, made before the request is received; None if `callers` of
            the server checks them.
        on_drain: called at the start of `drain_seconds`; streams that another replica can continue
            should end.
        batch: names of the methods that wait behind all others in an overloaded server.
        unlimited: names of the methods without admission, because the work they start has its own.
    """

    name: str
    add: Callable[[Any, Any], None]
    servicer: Any
    authorize: Authorize | None = None
    on_drain: Callable[[], None] | None = None
    batch: frozenset[str] = frozenset()
    unlimited: frozenset[str] = frozenset()


Wiring = Callable[[SettingsT], AbstractAsyncContextManager[Sequence[Registration]]]

# Mean delay before the only retry of a peer that admission refused.
RETRY_SECONDS = 0.2
MAX_OPEN_FILES = 65_536


def server_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    """Return the gRPC options of a server; see also `channel.CHANNEL_OPTIONS`.

    The limits of pending requests are raised, because the defaults cancel 27 % of a burst of 5,000
    calls.
    """
    options = [
        *KEEPALIVE_OPTIONS,
        # Must be shorter than the clients' ping interval, or GOAWAY follows the third ping.
        ("grpc.http2.min_ping_interval_without_data_ms", 3_000),
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        # A fixed window of 64 KiB: with the probe, a stream may hold megabytes before the server
        # receives its message.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_age_ms", int(settings.connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", 600_000),
        ("grpc.server.max_pending_requests", 2 * settings.max_concurrent_rpcs),
        ("grpc.server.max_pending_requests_hard_limit", 2 * settings.max_concurrent_rpcs),
    ]
    if settings.max_connection_rpcs:
        options.append(("grpc.max_concurrent_streams", settings.max_connection_rpcs))
    if settings.max_connections:
        # The other half of the files is for databases, peers, and HTTP.
        half = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        limit = min(settings.max_connections, half)
        options.append(("grpc.max_allowed_incoming_connections", limit))
    return options


@asynccontextmanager
async def serving(
    settings: ServiceSettings,
    registrations: Sequence[Registration],
    callers: AllowedCallers | None = None,
) -> AsyncIterator[int]:
    """Serve until the block ends, then drain. Yields the port.

    Args:
        callers: the services that may call each method; None for a public server, which requires
            keys instead of certificates.
    """
    prepare_event_loop()
    tls = settings.tls_files() if callers is not None else None
    admission = Admission(
        "server", settings.sure_concurrent_rpcs, settings.max_concurrent_rpcs, RETRY_SECONDS
    )
    batch = {f"/{each.name}/{method}" for each in registrations for method in each.batch}
    unlimited = {f"/{each.name}/{method}" for each in registrations for method in each.unlimited}
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor(
                settings,
                admission,
                callers,
                authorize={each.name: each.authorize for each in registrations if each.authorize},
                batch=batch,
                unlimited=unlimited,
                secure=tls is not None,
                tokens=settings.token_verifier() if callers is not None else None,
            )
        ],
        options=server_options(settings),
        # gRPC's own limit also refuses health checks, so admission must act first.
        maximum_concurrent_rpcs=2 * settings.max_concurrent_rpcs
        + settings.max_health_watchers
        + health.MAX_CHECKS,
    )
    names = [registration.name for registration in registrations]
    checks = health.HealthServicer(names, settings)
    server.add_generic_rpc_handlers((checks.handler(),))
    if settings.reflection:
        reflection.enable_server_reflection(
            [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
    for registration in registrations:
        registration.add(registration.servicer, server)
    address = f"{settings.host}:{settings.port}"
    port = (
        server.add_secure_port(address, server_credentials(tls))
        if tls
        else server.add_insecure_port(address)
    )
    await server.start()
    checks.serve()
    try:
        yield port
    finally:
        checks.drain()
        await asyncio.sleep(settings.lame_duck_seconds)
        for registration in registrations:
            if registration.on_drain:
                registration.on_drain()
        checks.close()
        await server.stop(settings.drain_seconds)


def raise_open_files() -> None:
    """Raise the limit of open files to the hard limit of the process.

    Each connection is an open file, and the usual limit of 1,024 is for programs with `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if wanted > soft:
        # macOS has a lower limit of its own.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_service(
    service: str,
    settings: SettingsT,
    wiring: Wiring[SettingsT],
    callers: AllowedCallers | None = None,
) -> None:
    """Run a service until SIGTERM or SIGINT.

    Args:
        service: name of the service in logs and traces.
        settings: settings of the service.
        wiring: context manager that opens the service's resources and yields its registrations.
        callers: see `serving`.
    """
    raise_open_files()
    configure_logs(service, settings.log_format)
    configure_traces(service, settings.otlp_endpoint)
    if callers is not None and settings.identity_keys is None:
        log.warning("callers are not authenticated", extra=fields(unset="identity_keys"))
    # Databases, the write-ahead log and key files are for this user only.
    os.umask(0o077)
    try:
        uvloop.run(_run(settings, wiring, callers))
    except (TlsFilesError, IdentityKeyError) as error:
        sys.exit(f"settings: {error}")


async def _run(
    settings: SettingsT, wiring: Wiring[SettingsT], callers: AllowedCallers | None
) -> None:
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    lag = asyncio.create_task(measure_loop_lag())
    probe = health.HttpHealth(asyncio.get_running_loop())
    if settings.metrics_port:
        http, _ = start_http_server(settings.metrics_port, settings.host)
        http.set_app(probe.around(make_wsgi_app()))
    async with wiring(settings) as registrations, serving(settings, registrations, callers) as port:
        log.info("serving", extra=fields(port=port))
        probe.is_serving = True
        await stopped.wait()
        probe.is_serving = False
        log.info("draining", extra=fields(seconds=settings.drain_seconds))
    lag.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await lag
    log.info("stopped")
