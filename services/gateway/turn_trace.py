"""A turn as one span, over its whole life: the call that began it may be gone long before. It ties
message id and trace id together.

Attributes are ids, versions and reasons; what people write is in none.
"""

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from opentelemetry.trace import Tracer, set_span_in_context

from services.chassis.errors import ServiceError
from services.chassis.identity import bind_call, current_call
from services.chassis.telemetry import fields
from services.gateway.events import Completed, Started
from services.gateway.turn import Turn

log = logging.getLogger(__name__)

Run = Callable[[Turn], Coroutine[Any, Any, None]]


def traced(run: Run, tracer: Tracer) -> Run:
    """The same, within a span that all calls of the turn are children of."""

    async def run_traced(turn: Turn) -> None:
        span = tracer.start_span("turn", context=current_call().trace)
        bind_call(replace(current_call(), trace=set_span_in_context(span)))
        reason = ""
        try:
            await run(turn)
        except ServiceError as error:
            reason = error.reason
            raise
        finally:
            told = _told(turn, reason)
            span.set_attributes({f"thumbwheel.{name}": value for name, value in told.items()})
            span.end()
            milliseconds = round((time.monotonic() - turn.accepted_at) * 1_000, 1)
            log.info("turn ended", extra=fields(**told, ms=milliseconds))

    return run_traced


def _told(turn: Turn, reason: str) -> dict[str, str]:
    """What readers were told, and the reason of a failure that ended the turn before they were told
    anything.
    """
    told = {"message_id": turn.message_id, "reason": reason}
    for event in (kept.event for kept in turn.events):
        if isinstance(event, Started):
            told |= {"version": event.model_version, "arm": event.arm}
        if isinstance(event, Completed):
            told["reason"] = reason or str(event.finish_reason)
    return told
