"""One trace span for the whole life of a turn, which may be longer than the call that began it.

The span connects message id and trace id. Attributes are ids, versions and reasons, never text of
users.
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
from services.gateway.turns.events import Completed, Started
from services.gateway.turns.turn import Turn

log = logging.getLogger(__name__)

Run = Callable[[Turn], Coroutine[Any, Any, None]]


def traced(run: Run, tracer: Tracer) -> Run:
    """Wrap `run` in a span that is the parent of all calls of the turn."""

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
            outcome = _outcome(turn, reason)
            span.set_attributes({f"thumbwheel.{name}": value for name, value in outcome.items()})
            span.end()
            milliseconds = round((time.monotonic() - turn.accepted_at) * 1_000, 1)
            log.info("turn ended", extra=fields(**outcome, ms=milliseconds))

    return run_traced


def _outcome(turn: Turn, reason: str) -> dict[str, str]:
    """Return ids, version and the reason of the end, also for failures before the first event."""
    outcome = {"message_id": turn.message_id, "reason": reason}
    for event in (kept.event for kept in turn.events):
        if isinstance(event, Started):
            outcome |= {"version": event.model_version, "arm": event.arm}
        if isinstance(event, Completed):
            outcome["reason"] = reason or str(event.finish_reason)
    return outcome
