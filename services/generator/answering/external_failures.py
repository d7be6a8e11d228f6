"""Failures of requests to external models: the outcome, its cause, and the error for the caller.

No error has a text of the endpoint, since it may quote the request.
"""

import json
from enum import StrEnum

import aiohttp

from services.chassis.errors import ResourceExhaustedError, ServiceError, UnavailableError
from services.contracts.limits import ContextLengthError

DEFAULT_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 3600.0
# The part of a refusal in which the reason is looked for.
MAX_REFUSAL_BYTES = 64 * 1024
# `code` of OpenAI's error, and its text, which vLLM, TGI and others use without the code.
CONTEXT_CODE, CONTEXT_TEXT = "context_length_exceeded", "maximum context length"


class Outcome(StrEnum):
    """End of a request to an endpoint; the errors have the reason EXTERNAL_MODEL_<OUTCOME>."""

    ANSWERED = "answered"
    CANCELLED = "cancelled"
    KEY_UNREADABLE = "key_unreadable"
    KEY_REFUSED = "key_refused"
    UNKNOWN = "unknown"
    CONTEXT_TOO_LONG = "context_too_long"
    REQUEST_REFUSED = "request_refused"
    BUSY = "busy"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    LOST = "lost"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    FILTERED = "filtered"


TEXTS = {
    Outcome.KEY_UNREADABLE: "the key for the external model cannot be read",
    Outcome.KEY_REFUSED: "the endpoint of the external model refuses the key",
    Outcome.UNKNOWN: "the endpoint does not have the external model",
    Outcome.CONTEXT_TOO_LONG: "the external model refuses the conversation as too long",
    Outcome.REQUEST_REFUSED: "the endpoint of the external model refuses the request",
    Outcome.BUSY: "the endpoint of the external model has too many requests",
    Outcome.FAILED: "the endpoint of the external model failed",
    Outcome.UNREACHABLE: "the endpoint of the external model is unreachable",
    Outcome.SILENT: "the external model does not answer in time",
    Outcome.LOST: "the endpoint of the external model ended the stream early",
    Outcome.MALFORMED: "the endpoint of the external model sent no completion",
    Outcome.TOO_LONG: "the external model wrote more than allowed",
    Outcome.FILTERED: "the provider of the external model withheld the answer",
}
STATUSES = {
    401: Outcome.KEY_REFUSED,
    403: Outcome.KEY_REFUSED,
    404: Outcome.UNKNOWN,
    429: Outcome.BUSY,
}


class ExternalModelError(Exception):
    """Failure of a request, before it becomes the error of a service.

    `retry_after` is the endpoint's Retry-After in seconds, or 0 without one. `is_temporary` is True
    if the endpoint has not begun an answer, and may answer the same request a moment later.
    """

    def __init__(
        self, outcome: Outcome, retry_after: float = 0.0, *, is_temporary: bool = False
    ) -> None:
        super().__init__(outcome)
        self.outcome, self.retry_after, self.is_temporary = outcome, retry_after, is_temporary

    def for_caller(self) -> ServiceError:
        """Return the error of the call."""
        text, reason = TEXTS[self.outcome], f"EXTERNAL_MODEL_{self.outcome.upper()}"
        if self.outcome is Outcome.CONTEXT_TOO_LONG:
            return ContextLengthError(f"{ContextLengthError.TEXT}: {text}", field="messages")
        kind = ResourceExhaustedError if self.outcome is Outcome.BUSY else UnavailableError
        return kind(text, reason=reason, retry_seconds=self.retry_after or DEFAULT_RETRY_SECONDS)


async def status_error(response: aiohttp.ClientResponse) -> ExternalModelError:
    """Return the error for a status; of the body only a context that is too long is recognised."""
    header = response.headers.get("Retry-After", "")
    # Otherwise a date, or nothing.
    retry = float(header[:9]) if header.isascii() and header.isdecimal() else 0.0
    outcome = STATUSES.get(response.status)
    if outcome is None:
        is_refused = 400 <= response.status < 500 and response.status != 408
        outcome = Outcome.REQUEST_REFUSED if is_refused else Outcome.FAILED
    if response.status in (400, 413, 422) and await _names_the_context(response):
        outcome = Outcome.CONTEXT_TOO_LONG
    # A redirect stays one.
    is_temporary = response.status in (408, 429) or response.status >= 500
    return ExternalModelError(outcome, min(retry, MAX_RETRY_SECONDS), is_temporary=is_temporary)


async def _names_the_context(response: aiohttp.ClientResponse) -> bool:
    """Return True if a refusal says that the context is too long."""
    try:
        body = json.loads(await response.content.read(MAX_REFUSAL_BYTES))
        error = body.get("error", body)
        found = error.get("code"), error.get("message")
    except (aiohttp.ClientError, ValueError, AttributeError, RecursionError):
        return False
    return found[0] == CONTEXT_CODE or CONTEXT_TEXT in str(found[1]).lower()
