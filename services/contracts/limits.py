"""Limits and checks of the protos that several services apply.

The limits are those of proto/thumbwheel. Each error names the field and the allowed values.
"""

import math
import re

from services.chassis.errors import InvalidArgumentError, ResourceExhaustedError
from services.contracts.chat import Sample

# chat.v1: texts of messages, histories, and sampling parameters.
MAX_TEXT_CHARACTERS = 32_768
MAX_HISTORY = 200
# All texts of one request: the window of a model of 32,768 tokens, at four characters a token. The
# guardrail judges every text, about 2 ms of CPU time for 1,000 characters.
MAX_REQUEST_CHARACTERS = 131_072
# Messages of one context. A window of 131,072 tokens holds at most 18,724, because the chat
# template adds at least six tokens to each.
MAX_CONTEXT_MESSAGES = 20_000
MAX_REQUEST_ID_CHARACTERS = 64
# Edits of the enhancer in one text. More are noise or no English.
MAX_EDITS = 1_000
MAX_REPLY_TOKENS = 4_096
MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 50

# guardrail.v1: parts of an answer, and parts per call.
MAX_TAIL_CHARACTERS = 2_000
MAX_PENDING_CHARACTERS = 32_768
MAX_OUTPUT_CHECKS = 64

# feedback.v1: feedback values, and names in events such as versions and arms.
MAX_REASONS = 8
MAX_REASON_CHARACTERS = 64
MAX_COMMENT_CHARACTERS = 2_000
MAX_CORRECTION_CHARACTERS = 8_192
MAX_NAME_CHARACTERS = 128
MIN_RANKED_ANSWERS, MAX_RANKED_ANSWERS = 2, 6

# review.v1: answers of an item, reason of an appeal.
MAX_ITEM_ANSWERS = 6
MAX_APPEAL_REASON_CHARACTERS = 500

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ConversationLimitError(ResourceExhaustedError):
    """The user or the tenant has stored as many conversations as allowed; they can be deleted."""

    is_load = False
    reason = "TOO_MANY_CONVERSATIONS"


class ContextLengthError(InvalidArgumentError):
    """A message is too long for the model's context; `limit` and `actual` are in tokens.

    The reason is OpenAI's code, in upper case. Clients recognise it or the beginning of TEXT, and
    shorten the conversation.
    """

    reason = "CONTEXT_LENGTH_EXCEEDED"
    TEXT = "this model's maximum context length is exceeded"


def field_error(field: str, limit: str, actual: str = "") -> InvalidArgumentError:
    """Return the error for a field outside its limit.

    Args:
        field: name of the field.
        limit: wording of the allowed values.
        actual: size of the value, or "" if the size explains nothing or would reveal user text.
    """
    text = f"{field} must be {limit}" + (f", not {actual}" if actual else "")
    return InvalidArgumentError(text, field=field, limit=limit)


def with_field(error: InvalidArgumentError, field: str) -> InvalidArgumentError:
    """Return the error with another name of the field, as known to the caller of another API."""
    if not error.field or field == error.field:
        return error
    return InvalidArgumentError(
        error.text.replace(error.field, field, 1),
        reason=error.reason,
        field=field,
        limit=error.limit,
        actual=error.actual,
    )


def check_sample(sample: Sample, field: str) -> None:
    """Check number and form of the sampled tokens.

    Raises:
        InvalidArgumentError: The sample is empty or too long, or a log-prob is missing or invalid.
    """
    if not 1 <= len(sample.token_ids) <= MAX_REPLY_TOKENS:
        raise field_error(f"{field}.token_ids", f"1 to {MAX_REPLY_TOKENS:,} tokens")
    if len(sample.log_probs) != len(sample.token_ids):
        raise field_error(f"{field}.log_probs", "as many as token_ids")
    if not all(math.isfinite(value) and value <= 0 for value in sample.log_probs):
        raise field_error(f"{field}.log_probs", "finite and at most 0")


def check_text(text: str, field: str, most: int) -> None:
    """Check the length of a text, and that Postgres can store it.

    Args:
        text: value of the field.
        field: name of the field.
        most: longest length in characters.

    Raises:
        InvalidArgumentError: The text is too long or has U+0000.
    """
    if len(text) > most:
        raise field_error(field, f"at most {most:,} characters", f"{len(text):,}")
    if "\0" in text:
        raise field_error(field, "without U+0000")


def check_uuid(
    text: str, field: str, *, optional: bool = False, limit: str = "a UUID, lower case"
) -> None:
    """Check that a text is a UUID in lower case, or, if `optional`, empty.

    Args:
        text: value of the field.
        field: name of the field.
        optional: accept an empty text.
        limit: wording of the allowed values in the error.

    Raises:
        InvalidArgumentError: The text is malformed.
    """
    if not (optional and not text) and not _UUID.fullmatch(text):
        raise field_error(field, limit)
