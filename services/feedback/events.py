"""What can be said about an answer, and what a finished turn is; with the limits of both.

An event comes in with plain texts; from the spool on they are in `sealed` (sealing.py), and empty
beside it. Times are microseconds since 1970 in UTC: they are data, never an order. Order is the
order of acceptance.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.chassis.errors import InvalidArgumentError
from services.feedback.principals.sealing import is_sealed

MAX_REASONS = 8
MAX_REASON_CHARACTERS = 64
MAX_COMMENT_CHARACTERS = 2_000
MAX_CORRECTION_CHARACTERS = 8_192
MAX_NAME_CHARACTERS = 128
MAX_SAMPLE_TOKENS = 4_096
MAX_POSITION = 2**63 - 1
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PRINCIPAL = re.compile(r"[0-9a-f]{64}")


class Stream(StrEnum):
    """A log of its own, with its own topic id."""

    FEEDBACK = "feedback"
    TURNS = "turns"


class Subject(StrEnum):
    """What a retraction takes back."""

    THUMB = "thumb"
    CORRECTION = "correction"


@dataclass(frozen=True)
class Thumb:
    """Good or bad, and why."""

    up: bool
    reasons: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Correction:
    """A better answer by the user."""

    text: str


@dataclass(frozen=True)
class Words:
    """What a user said in words about an answer, taken together."""

    reasons: tuple[str, ...] = ()
    comment: str = ""
    correction: str = ""


@dataclass(frozen=True)
class Retraction:
    """Takes back the user's thumb or correction."""

    subject: str


@dataclass(frozen=True)
class FeedbackEvent:
    """One thing that a user said about an answer."""

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    message_id: str
    model_version: str
    arm: str
    accept_us: int
    value: Thumb | Correction | Retraction | None
    sealed: bytes = b""
    unknown_bytes: bytes = b""


@dataclass(frozen=True)
class ContextMessage:
    """One message that the model was given; role is "system", "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Sample:
    """What the model sampled: token ids, and the log-prob of each. It tells the answer, so it is
    sealed with it.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True)
class TurnEvent:
    """One finished turn, as training needs it."""

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    user_message_id: str
    message_id: str
    context: tuple[ContextMessage, ...]
    original_text: str
    answer: str
    finish_reason: str
    model_version: str
    arm: str
    assignment_probability: float
    task: str
    temperature: float
    top_p: float
    prompt_tokens: int
    completion_tokens: int
    policy_version: str
    guard_category: str
    finish_us: int
    erased: bool
    cached: bool = False
    sample: Sample | None = None
    sealed: bytes = b""
    unknown_bytes: bytes = b""


def check_feedback(event: FeedbackEvent, path: str = "event") -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    _check_common(event, path)
    if event.accept_us <= 0:
        raise _invalid(f"{path}.accept_time", "a time after 1970")
    match event.value:
        case Thumb() as thumb:
            _check_thumb(thumb, f"{path}.thumb")
            _check_seal(event.sealed, f"{path}.sealed", bool(thumb.reasons or thumb.comment))
        case Correction(text):
            _check_seal(event.sealed, f"{path}.sealed", bool(text))
            if not event.sealed and not 1 <= len(text) <= MAX_CORRECTION_CHARACTERS:
                raise _invalid(
                    f"{path}.correction.text", f"1 to {MAX_CORRECTION_CHARACTERS:,} characters"
                )
        case Retraction(subject):
            _check_seal(event.sealed, f"{path}.sealed", False)
            if subject not in list(Subject):
                raise _invalid(
                    f"{path}.retraction.kind", " or ".join(f'"{kind}"' for kind in Subject)
                )
        case None:
            raise _invalid(f"{path}.value", "one of thumb, correction, retraction")


def check_turn(event: TurnEvent, path: str = "turn") -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    _check_common(event, path)
    check_uuid(event.user_message_id, f"{path}.user_message_id")
    has_texts = bool(event.context or event.answer or event.original_text or event.sample)
    _check_seal(event.sealed, f"{path}.sealed", has_texts)
    if event.erased and has_texts:
        raise _invalid(
            f"{path}.erased", "an erased turn has no context, original_text, answer and sample"
        )
    if event.sample:
        _check_sample(event.sample, f"{path}.sample")


def check_unsealed(event: FeedbackEvent | TurnEvent, path: str = "event") -> None:
    """Nobody else seals: what comes in is plain. Raises: InvalidArgumentError naming field and
    limit.
    """
    if event.sealed:
        raise _invalid(f"{path}.sealed", "empty")


def _check_seal(sealed: bytes, field: str, has_texts: bool) -> None:
    if sealed and (has_texts or not is_sealed(sealed)):
        raise _invalid(field, "of a known form, with no texts beside it")


def _check_common(event: FeedbackEvent | TurnEvent, path: str) -> None:
    for name in ("event_id", "conversation_id", "message_id"):
        check_uuid(getattr(event, name), f"{path}.{name}")
    if not event.tenant:
        raise _invalid(f"{path}.tenant", f"1 to {MAX_NAME_CHARACTERS} characters")
    _check_principal(event.principal, f"{path}.principal")
    for name in ("tenant", "model_version", "arm"):
        # Postgres takes no NUL: accepted, such an event would stop the sink for ever.
        if len(getattr(event, name)) > MAX_NAME_CHARACTERS or "\0" in getattr(event, name):
            raise _invalid(
                f"{path}.{name}", f"at most {MAX_NAME_CHARACTERS} characters, none of them NUL"
            )


def _check_sample(sample: Sample, path: str) -> None:
    if not 1 <= len(sample.token_ids) <= MAX_SAMPLE_TOKENS:
        raise _invalid(f"{path}.token_ids", f"1 to {MAX_SAMPLE_TOKENS:,} tokens")
    if len(sample.log_probs) != len(sample.token_ids):
        raise _invalid(f"{path}.log_probs", "as many as token_ids")
    if not all(math.isfinite(value) and value <= 0 for value in sample.log_probs):
        raise _invalid(f"{path}.log_probs", "finite and at most 0")


def _check_thumb(thumb: Thumb, path: str) -> None:
    if len(thumb.reasons) > MAX_REASONS:
        raise _invalid(f"{path}.reasons", f"at most {MAX_REASONS}")
    if any(len(reason) > MAX_REASON_CHARACTERS for reason in thumb.reasons):
        raise _invalid(f"{path}.reasons", f"at most {MAX_REASON_CHARACTERS} characters each")
    if len(thumb.comment) > MAX_COMMENT_CHARACTERS:
        raise _invalid(f"{path}.comment", f"at most {MAX_COMMENT_CHARACTERS:,} characters")


def check_message_ids(message_ids: Sequence[str], limit: int) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    if not 1 <= len(message_ids) <= limit:
        raise _invalid("message_ids", f"1 to {limit:,}")
    for number, message_id in enumerate(message_ids):
        check_uuid(message_id, f"message_ids[{number}]")


def check_principals(principals: Sequence[str], limit: int) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    if not 1 <= len(principals) <= limit:
        raise _invalid("principals", f"1 to {limit:,}")
    for number, principal in enumerate(principals):
        _check_principal(principal, f"principals[{number}]")


def check_position(position: int, field: str) -> None:
    """A place in a ledger, of which the protocol allows more than the database. Raises:
    InvalidArgumentError naming field and limit.
    """
    if position > MAX_POSITION:
        raise _invalid(field, f"at most {MAX_POSITION:,}")


def _check_principal(text: str, field: str) -> None:
    if not _PRINCIPAL.fullmatch(text):
        raise _invalid(field, "64 hexadecimal digits, lower case")


def check_uuid(text: str, field: str) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    if not _UUID.fullmatch(text):
        raise _invalid(field, "a UUID, lower case")


def _invalid(field: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} must be {limit}", field=field, limit=limit)
