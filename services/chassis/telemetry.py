"""Logs, metrics and traces of the services.

None of them contains user text: log fields and labels are identifiers, names and numbers.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.propagate import inject
from prometheus_client import Counter, Gauge, Histogram

from services.chassis.identity import current_call

_MILLISECOND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
LATENCY_BUCKETS_SECONDS = (*_MILLISECOND_BUCKETS, 1, 2.5, 5, 10, 30, 60, 300)

RPCS = Counter(
    "thumbwheel_rpcs_total", "Finished calls by method and status code.", ["method", "code"]
)
RPC_SECONDS = Histogram(
    "thumbwheel_rpc_seconds", "Duration of calls.", ["method"], buckets=LATENCY_BUCKETS_SECONDS
)
RPCS_RUNNING = Gauge("thumbwheel_rpcs_running", "Calls that run now.", ["method"])
RPCS_UNREAD = Gauge(
    "thumbwheel_rpcs_unread", "Calls whose client has not read an answer that is sent.", ["method"]
)
ADMISSION_LIMIT = Gauge(
    "thumbwheel_admission_limit",
    "Calls that may wait for their first answer now, by entry point.",
    ["limiter"],
)
ADMISSION_STARTING = Gauge(
    "thumbwheel_admission_starting", "Calls that wait for their first answer.", ["limiter"]
)
ADMISSION_QUEUED = Gauge(
    "thumbwheel_admission_queued", "Calls in the queue that are not admitted yet.", ["limiter"]
)
ADMISSION_REFUSED = Counter(
    "thumbwheel_admission_refused_total", "Calls that were refused after the queue.", ["limiter"]
)
LOOP_LAG_SECONDS = Histogram(
    "thumbwheel_event_loop_lag_seconds",
    "Delay with which the event loop resumes a sleeping task.",
    buckets=LATENCY_BUCKETS_SECONDS,
)


@cache
def labelled(metric: Any, *values: str) -> Any:
    """Return `metric.labels(*values)`, cached, since a look-up costs as much as ten increments.

    Use only for labels with few values: the cache never shrinks.
    """
    return metric.labels(*values)


def fields(**values: str | int | float | bool) -> Mapping[str, Mapping[str, object]]:
    """Return the fields of a log record: `log.info("turn finished", extra=fields(turn=…))`."""
    return {"fields": values}


class LineFormatter(logging.Formatter):
    """Formatter of one line per record, as text or as a JSON object.

    Text: `12:00:01 info  session  turn finished  message_id=… ms=2.1`.
    """

    def __init__(self, service: str, as_json: bool) -> None:
        super().__init__()
        self.service = service
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        values: Mapping[str, object] = getattr(record, "fields", {})
        level, phrase = record.levelname.lower(), record.getMessage()
        # Every line of a traced call has the trace id, including lines of libraries.
        trace_fields = {"trace_id": found} if (found := trace_id()) else {}
        extra = {**trace_fields, **_exception_fields(record)}
        if self.as_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
            line = {
                "time": stamp,
                "level": level,
                "service": self.service,
                "event": phrase,
                **values,
                **extra,
            }
            return json.dumps(line, default=str)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = " ".join(f"{key}={value}" for key, value in {**values, **extra}.items())
        return f"{clock} {level:<7} {self.service:<9} {phrase}  {pairs}".rstrip()


def _exception_fields(record: logging.LogRecord) -> Mapping[str, object]:
    """Return type and location of an exception, without its text, which may quote user text."""
    if not record.exc_info or record.exc_info[0] is None:
        return {}
    frame = record.exc_info[2]
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    location = (
        f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}"
        if frame
        else "unknown"
    )
    return {"error": record.exc_info[0].__name__, "at": location}


def configure_logs(service: str, log_format: str) -> None:
    """Write logs to standard error, one line per record; of libraries only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(service, log_format == "json"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(logging.INFO)


def configure_traces(service: str, otlp_endpoint: str) -> None:
    """Export spans by OTLP; without an endpoint no spans are recorded."""
    if not otlp_endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"thumbwheel-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint)))
    trace.set_tracer_provider(provider)


async def measure_loop_lag(interval_seconds: float = 0.25) -> None:
    """Record until cancelled how late the event loop wakes up; shows blocking calls in handlers."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(interval_seconds)
        LOOP_LAG_SECONDS.observe(max(0.0, time.perf_counter() - before - interval_seconds))


@cache
def tracer() -> Any:
    """Return the tracer of Thumbwheel's spans, cached, since a look-up costs as much as a span.

    A tracer that was created before `configure_traces` uses the provider configured later.
    """
    return trace.get_tracer("thumbwheel")


def trace_id() -> str:
    """Return the trace id of the running call, 32 hexadecimal digits, or "" without a trace."""
    span = trace.get_current_span(current_call().trace).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


def trace_headers() -> dict[str, str]:
    """Return the trace of the running call as W3C `traceparent` header for the next hop."""
    carrier: dict[str, str] = {}
    inject(carrier, context=current_call().trace)
    return carrier
