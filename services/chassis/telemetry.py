"""Logs, metrics and traces of every service. No user text goes into any of them: fields are ids,
names, numbers.
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

LATENCY_BUCKETS_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)

RPCS = Counter(
    "thumbwheel_rpcs_total", "Finished calls by method and status code.", ["method", "code"]
)
RPC_SECONDS = Histogram(
    "thumbwheel_rpc_seconds", "Duration of calls.", ["method"], buckets=LATENCY_BUCKETS_SECONDS
)
RPCS_RUNNING = Gauge("thumbwheel_rpcs_running", "Calls that run now.", ["method"])
ADMISSION_LIMIT = Gauge(
    "thumbwheel_admission_limit",
    "Calls that may wait for their first answer now, by door.",
    ["door"],
)
ADMISSION_STARTING = Gauge(
    "thumbwheel_admission_starting", "Calls that wait for their first answer.", ["door"]
)
ADMISSION_QUEUED = Gauge(
    "thumbwheel_admission_queued", "Calls in the queue that are not admitted yet.", ["door"]
)
ADMISSION_REFUSED = Counter(
    "thumbwheel_admission_refused_total", "Calls that were refused after the queue.", ["door"]
)
LOOP_LAG_SECONDS = Histogram(
    "thumbwheel_event_loop_lag_seconds",
    "How late the event loop wakes up.",
    buckets=LATENCY_BUCKETS_SECONDS,
)


@cache
def labelled(metric: Any, *values: str) -> Any:
    """`metric.labels(*values)`, found once: asking anew costs as much as counting ten times. For
    labels of few values only.
    """
    return metric.labels(*values)


def fields(**values: str | int | float | bool) -> Mapping[str, Mapping[str, object]]:
    """`log.info("turn finished", extra=fields(message_id=…))`: a constant phrase and its fields."""
    return {"fields": values}


class LineFormatter(logging.Formatter):
    """`12:00:01 info  session  turn finished  message_id=… ms=2.1`, or the same as one JSON object."""

    def __init__(self, service: str, as_json: bool) -> None:
        super().__init__()
        self.service = service
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        values: Mapping[str, object] = getattr(record, "fields", {})
        level, phrase = record.levelname.lower(), record.getMessage()
        # Within a call that is traced every line names the trace, whoever writes it.
        where = {**({"trace_id": found} if (found := trace_id()) else {}), **_where(record)}
        if self.as_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
            line = {
                "time": stamp,
                "level": level,
                "service": self.service,
                "event": phrase,
                **values,
                **where,
            }
            return json.dumps(line, default=str)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = " ".join(f"{key}={value}" for key, value in {**values, **where}.items())
        return f"{clock} {level:<7} {self.service:<9} {phrase}  {pairs}".rstrip()


def _where(record: logging.LogRecord) -> Mapping[str, object]:
    """Type and place of an exception. Never its text: the text of a foreign exception may quote
    what a user wrote.
    """
    if not record.exc_info or record.exc_info[0] is None:
        return {}
    frame = record.exc_info[2]
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = (
        f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}"
        if frame
        else "unknown"
    )
    return {"error": record.exc_info[0].__name__, "at": place}


def configure_logs(service: str, log_format: str) -> None:
    """Send all logs to standard error, one line a record; libraries only from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(service, log_format == "json"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(logging.INFO)


def configure_traces(service: str, otlp_endpoint: str) -> None:
    """Export spans by OTLP; without an endpoint spans cost nothing and go nowhere."""
    if not otlp_endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"thumbwheel-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint)))
    trace.set_tracer_provider(provider)


async def watch_event_loop(interval_seconds: float = 0.25) -> None:
    """Measure for ever how late the loop wakes: a blocking call in a handler shows here first."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(interval_seconds)
        LOOP_LAG_SECONDS.observe(max(0.0, time.perf_counter() - before - interval_seconds))


@cache
def tracer() -> Any:
    """The tracer of Thumbwheel's spans. Finding it costs as much as a span, and one found early
    follows the provider that comes later.
    """
    return trace.get_tracer("thumbwheel")


def trace_id() -> str:
    """32 hexadecimal digits of the running call's trace; empty where there is none."""
    span = trace.get_current_span(current_call().trace).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


def trace_headers() -> dict[str, str]:
    """The running call's trace for the next hop, as W3C's traceparent."""
    carrier: dict[str, str] = {}
    inject(carrier, context=current_call().trace)
    return carrier
