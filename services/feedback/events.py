"""Feedback events and turn events of the domain, with their limits.

An event arrives with plain texts. From the spool onwards the texts are in `sealed` (sealing.py) and
the plain fields are empty. Times are microseconds since 1970 in UTC and never define an order;
events are ordered by acceptance.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.contracts.chat import Sample
from services.contracts.feedback import (
    Correction,
    FeedbackValue,
    Ranking,
    RankingSource,
    Retraction,
    Signal,
    SignalKind,
    Subject,
    Thumb,
)
from services.contracts.limits import (
    MAX_COMMENT_CHARACTERS,
    MAX_CORRECTION_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_RANKED_ANSWERS,
    MAX_REASON_CHARACTERS,
    MAX_REASONS,
    MAX_TEXT_CHARACTERS,
    MIN_RANKED_ANSWERS,
    check_sample,
    check_uuid,
    field_error,
)
from services.feedback.principals.sealing import is_sealed, key_ids_of

MAX_POSITION = 2**63 - 1
_PRINCIPAL = re.compile(r"[0-9a-f]{64}")


class Stream(StrEnum):
    """Kind of event log; each stream has its own topic id."""

    FEEDBACK = "feedback"
    TURNS = "turns"


@dataclass(frozen=True)
class Words:
    """All texts of one user about one answer: reasons, comment and correction."""

    reasons: tuple[str, ...] = ()
    comment: str = ""
    correction: str = ""


@dataclass(frozen=True)
class FeedbackEvent:
    """One feedback action on an answer of a user, by the user or by a reviewer.

    `rater` is the principal of the reviewer, or empty for feedback of the user.
    """

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    message_id: str
    model_version: str
    arm: str
    accept_us: int
    value: FeedbackValue | None
    rater: str = ""
    sealed: bytes = b""
    unknown_bytes: bytes = b""

    @property
    def principals(self) -> tuple[str, ...]:
        """Principals in the order of their sealing keys; the erasure of each removes the event."""
        return (self.principal, self.rater) if self.rater else (self.principal,)


@dataclass(frozen=True)
class TurnEvent:
    """One finished turn with all fields needed for training.

    `context` holds role and text of each message. Roles, `finish_reason` and `task` are names of
    chat.v1 in lower case, or the number of a value that this version does not know.
    `parent_message_id` is None without consent to implicit signals.
    """

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    user_message_id: str
    message_id: str
    context: tuple[tuple[str, str], ...]
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
    parent_message_id: str | None = None
    sample: Sample | None = None
    sealed: bytes = b""
    unknown_bytes: bytes = b""

    @property
    def principals(self) -> tuple[str, ...]:
        """Principal whose erasure removes the turn."""
        return (self.principal,)


def check_feedback(event: FeedbackEvent, path: str = "event") -> None:
    """Check the fields of a feedback event.

    Raises:
        InvalidArgumentError: A field exceeds its limit; the error names field and limit.
    """
    _check_common(event, path)
    if event.accept_us <= 0:
        raise field_error(f"{path}.accept_time", "a time after 1970")
    _check_rater(event, path)
    match event.value:
        case Thumb() as thumb:
            if len(thumb.reasons) > MAX_REASONS:
                raise field_error(f"{path}.thumb.reasons", f"at most {MAX_REASONS}")
            if any(len(reason) > MAX_REASON_CHARACTERS for reason in thumb.reasons):
                raise field_error(
                    f"{path}.thumb.reasons", f"at most {MAX_REASON_CHARACTERS} characters each"
                )
            if len(thumb.comment) > MAX_COMMENT_CHARACTERS:
                raise field_error(
                    f"{path}.thumb.comment", f"at most {MAX_COMMENT_CHARACTERS:,} characters"
                )
            _check_seal(event.sealed, f"{path}.sealed", bool(thumb.reasons or thumb.comment))
        case Correction(text):
            _check_seal(event.sealed, f"{path}.sealed", bool(text))
            if not event.sealed and not 1 <= len(text) <= MAX_CORRECTION_CHARACTERS:
                raise field_error(
                    f"{path}.correction.text", f"1 to {MAX_CORRECTION_CHARACTERS:,} characters"
                )
        case Retraction(subject):
            _check_seal(event.sealed, f"{path}.sealed", False)
            if subject not in list(Subject):
                raise field_error(
                    f"{path}.retraction.kind", " or ".join(f'"{kind}"' for kind in Subject)
                )
        case Signal(kind):
            _check_seal(event.sealed, f"{path}.sealed", False)
            if kind not in list(SignalKind):
                raise field_error(
                    f"{path}.signal.kind", " or ".join(f'"{kind}"' for kind in SignalKind)
                )
        case Ranking() as ranking:
            _check_ranking(ranking, event.sealed, path)
        case None:
            raise field_error(
                f"{path}.value", "one of thumb, correction, retraction, signal, ranking"
            )


def _check_rater(event: FeedbackEvent, path: str) -> None:
    if event.rater:
        check_principal(event.rater, f"{path}.rater")
        if event.rater == event.principal or isinstance(event.value, Signal):
            raise field_error(
                f"{path}.rater", "empty for feedback of the user and for implicit signals"
            )


def _check_ranking(ranking: Ranking, sealed: bytes, path: str) -> None:
    """Check a ranking; after sealing, an answer without message id has no text either."""
    answers, field = ranking.answers, f"{path}.ranking.answers"
    _check_seal(sealed, f"{path}.sealed", any(answer.text for answer in answers))
    if not MIN_RANKED_ANSWERS <= len(answers) <= MAX_RANKED_ANSWERS:
        raise field_error(field, f"{MIN_RANKED_ANSWERS} to {MAX_RANKED_ANSWERS}")
    if ranking.source not in list(RankingSource):
        raise field_error(f"{path}.ranking.source", " or ".join(RankingSource))
    for number, answer in enumerate(answers):
        item = f"{field}[{number}]"
        check_uuid(answer.message_id, f"{item}.message_id", optional=True)
        if not sealed and bool(answer.message_id) == bool(answer.text.strip()):
            raise field_error(f"{item}.text", "set if message_id is empty, and only then")
        if len(answer.text) > MAX_TEXT_CHARACTERS:
            raise field_error(f"{item}.text", f"at most {MAX_TEXT_CHARACTERS:,} characters")
        _check_name(answer.model_version, f"{item}.model_version")
    stored = [answer.message_id for answer in answers if answer.message_id]
    if len(set(stored)) < len(stored):
        raise field_error(field, "different answers")
    ranks = {answer.rank for answer in answers}
    if ranks != set(range(1, len(ranks) + 1)):
        raise field_error(f"{field}.rank", "1, 2, 3 … without gaps; equal ranks are ties")


def check_turn(event: TurnEvent, path: str = "turn") -> None:
    """Check the fields of a turn event.

    Raises:
        InvalidArgumentError: A field exceeds its limit; the error names field and limit.
    """
    _check_common(event, path)
    check_uuid(event.user_message_id, f"{path}.user_message_id")
    check_uuid(event.parent_message_id or "", f"{path}.parent_message_id", optional=True)
    has_texts = bool(event.context or event.answer or event.original_text or event.sample)
    _check_seal(event.sealed, f"{path}.sealed", has_texts)
    if event.erased and has_texts:
        raise field_error(
            f"{path}.erased", "false, or context, original_text, answer and sample must be empty"
        )
    if event.sample:
        check_sample(event.sample, f"{path}.sample")


def check_unsealed(event: FeedbackEvent | TurnEvent, path: str = "event") -> None:
    """Check for an empty `sealed` field, since only this service seals texts.

    Raises:
        InvalidArgumentError: The caller has sent sealed bytes; the error names field and limit.
    """
    if event.sealed:
        raise field_error(f"{path}.sealed", "empty")


def _check_seal(sealed: bytes, field: str, has_texts: bool) -> None:
    if sealed and (has_texts or not is_sealed(sealed)):
        raise field_error(field, "of a known form, without plain texts")


def _check_common(event: FeedbackEvent | TurnEvent, path: str) -> None:
    for name in ("event_id", "conversation_id", "message_id"):
        check_uuid(getattr(event, name), f"{path}.{name}")
    if not event.tenant:
        raise field_error(f"{path}.tenant", f"1 to {MAX_NAME_CHARACTERS} characters")
    check_principal(event.principal, f"{path}.principal")
    for name in ("tenant", "model_version", "arm"):
        _check_name(getattr(event, name), f"{path}.{name}")
    if event.sealed and len(key_ids_of(event.sealed)) != len(event.principals):
        raise field_error(f"{path}.sealed", "of a known form, with the key id of each principal")


def _check_name(name: str, field: str) -> None:
    # Postgres rejects NUL in text. An accepted event with NUL would stop the sink permanently.
    if len(name) > MAX_NAME_CHARACTERS or "\0" in name:
        raise field_error(field, f"at most {MAX_NAME_CHARACTERS} characters, none of them NUL")


def check_each(
    values: Sequence[str], field: str, limit: int, check: Callable[[str, str], None]
) -> None:
    """Check the number of values and, by `check(value, field)`, the form of each.

    Raises:
        InvalidArgumentError: Too many values or a malformed one; the error names field and limit.
    """
    if not 1 <= len(values) <= limit:
        raise field_error(field, f"1 to {limit:,}")
    for number, value in enumerate(values):
        check(value, f"{field}[{number}]")


def check_version(version: str, field: str) -> None:
    """Check the form of a version.

    Raises:
        InvalidArgumentError: The version is malformed; the error names field and limit.
    """
    if not 1 <= len(version) <= MAX_NAME_CHARACTERS or "\0" in version:
        raise field_error(field, f"1 to {MAX_NAME_CHARACTERS} characters, none of them NUL")


def check_position(position: int, field: str) -> None:
    """Check a ledger position: the protocol allows larger numbers than the database.

    Raises:
        InvalidArgumentError: The position exceeds the database's range.
    """
    if position > MAX_POSITION:
        raise field_error(field, f"at most {MAX_POSITION:,}")


def check_principal(text: str, field: str) -> None:
    """Check the form of a principal.

    Raises:
        InvalidArgumentError: The principal is malformed; the error names field and limit.
    """
    if not _PRINCIPAL.fullmatch(text):
        raise field_error(field, "64 hexadecimal digits, lower case")
