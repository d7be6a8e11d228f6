"""Conversion of Parquet rows of the log to events, with decryption of sealed texts.

Columns are read by name: missing columns are null and unknown columns are ignored, so files of
older and newer writers can be combined.

`sealed` consists of a byte 1, the key id (16 bytes), a nonce (12 bytes), and the AES-256-GCM
ciphertext of a message with only the texts. The associated data is event_id/principal
(events.proto). Texts of a reviewer belong to the user and to the reviewer: a byte 2, the ids of
both keys, a nonce, and the ciphertext under a key derived from both, with the associated data
event_id/principal/rater.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from training.data.chat import Message
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import (
    Erasure,
    Feedback,
    FeedbackKind,
    FinishReason,
    LogPosition,
    RankedAnswer,
    Turn,
    Withheld,
)
from training.data.feedback.sources import Source
from training.data.served import Served
from training.errors import DetailedError

KNOWN_KINDS = frozenset(kind.value for kind in FeedbackKind)
KNOWN_FINISH_REASONS = frozenset(finish.value for finish in FinishReason)
FORM, RATED_FORM = 1, 2
KEY_ID, RATER_KEY_ID = slice(1, 17), slice(17, 33)
# Position of the nonce, after one key id or two.
NONCE_START = {FORM: 17, RATED_FORM: 33}
NONCE_BYTES, TAG_BYTES = 12, 16  # the ciphertext of an empty message is the tag
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RATED_INFO = b"thumbwheel.feedback.rated"
# Origins of rankings by their name in the log.
RANKING_SOURCES = {"arena": Source.ARENA, "review": Source.RANKING}


class RowError(DetailedError, ValueError):
    """Error for a row without a required value; the message has object, offset and column only."""

    reason = "INVALID_ROW"


class SealError(DetailedError, ValueError):
    """Error for sealed bytes that are malformed, changed, or bound to another event.

    The message names object and offset only.
    """

    reason = "DAMAGED"


def feedback_rows(table: pa.Table, segment: Segment, decryptor: Decryptor) -> Iterator[Feedback]:
    """Yield the events of a feedback object; unknown kinds and origins are skipped."""
    for row in table.to_pylist():
        kind, source = _text(row, "kind", segment), row.get("ranking_source") or "review"
        if kind in KNOWN_KINDS and source in RANKING_SOURCES:
            texts = decryptor.feedback(row, segment)
            yield Feedback(
                place=_place(row, segment),
                event_id=_text(row, "event_id", segment),
                principal=_text(row, "principal", segment),
                message_id=_text(row, "message_id", segment),
                kind=FeedbackKind(kind),
                up=bool(row.get("up")),
                text=texts.correction,
                retracts=row.get("retracts") or "",
                rater=row.get("rater") or "",
                ranked=_ranked(row, texts),
                source=RANKING_SOURCES[source],
                withheld=texts.withheld,
            )


def _ranked(row: Mapping[str, Any], texts: Texts) -> tuple[RankedAnswer, ...]:
    """Return the answers of a ranking; texts are sealed in the order of the answers."""
    answers = row.get("ranking") or ()
    sealed = texts.ranked or ("",) * len(answers)
    return tuple(
        RankedAnswer(
            rank=answer["rank"],
            message_id=answer["message_id"] or "",
            text=text or answer["text"] or "",
            model_version=answer["model_version"] or "",
        )
        for answer, text in zip(answers, sealed, strict=True)
        if not texts.withheld
    )


def turn_rows(table: pa.Table, segment: Segment, decryptor: Decryptor) -> Iterator[Turn]:
    """Yield the turns of a turns object."""
    for row in table.to_pylist():
        finish, texts = row.get("finish_reason"), decryptor.turn(row, segment)
        yield Turn(
            place=_place(row, segment),
            event_id=_text(row, "event_id", segment),
            principal=_text(row, "principal", segment),
            message_id=_text(row, "message_id", segment),
            context=texts.context,
            answer=texts.answer,
            finish=FinishReason(finish) if finish in KNOWN_FINISH_REASONS else FinishReason.UNKNOWN,
            model_version=row.get("model_version") or "",
            arm=row.get("arm") or "",
            guard_category=row.get("guard_category") or "",
            erased=bool(row.get("erased")),
            cached=bool(row.get("cached")),
            served=texts.served,
            withheld=texts.withheld,
            tenant=row.get("tenant") or "",
            conversation_id=row.get("conversation_id") or "",
            task=row.get("task") or "",
            finish_us=_microseconds(row.get("finish_time")),
        )


def _microseconds(time: datetime | None) -> int:
    """Return a time in microseconds since 1970, 0 if a row has none."""
    return 0 if time is None else (time - EPOCH) // timedelta(microseconds=1)


def _place(row: Mapping[str, Any], segment: Segment) -> LogPosition:
    """Return the log position of a row. Rows of compacted objects keep their original positions."""
    offset: Any = row.get("offset")
    sequence, inside = segment.sequence, isinstance(offset, int)
    if segment.is_compacted:
        sequence = row.get("sequence") or 0
        inside = inside and segment.first_sequence <= sequence <= segment.sequence
    else:
        inside = inside and segment.start_offset <= offset < segment.end_offset
    if not inside:
        by_sequence = segment.is_compacted and isinstance(offset, int)
        raise RowError(
            f"offset: {offset!r} of sequence {sequence} in {segment.object_key}"
            " is not in its segment",
            field="sequence" if by_sequence else "offset",
            reason="OUT_OF_RANGE",
            limit=f"{segment.first_sequence} to {segment.sequence}"
            if segment.is_compacted
            else f"{segment.start_offset} to {segment.end_offset - 1}",
        )
    return row.get("accept_order") or 0, sequence, offset


def _text(row: Mapping[str, Any], column: str, segment: Segment) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value:
        raise RowError(
            f"{column}: missing in {segment.object_key} at offset {row.get('offset')!r}",
            field=column,
            reason="MISSING",
        )
    return value


@dataclass(frozen=True)
class DataKey:
    """Data key of one principal.

    key_id is empty if no texts remain to be opened; without consent there is no key.
    """

    consent: bool
    key_id: bytes = b""
    key: bytes = field(default=b"", repr=False)


class KeyLog(Protocol):
    """Source of consents, data keys and erasure requests."""

    def data_keys(self, principals: Sequence[str]) -> Mapping[str, DataKey]: ...

    def erasures(self, after: int) -> Sequence[Erasure]: ...


@dataclass(frozen=True)
class Texts:
    """Texts of a row, or the reason for withholding them."""

    withheld: Withheld | None = None
    context: tuple[Message, ...] = ()
    answer: str = ""
    correction: str = ""
    ranked: tuple[str, ...] = ()
    served: Served | None = None


Row = Mapping[str, Any]
Inner = TypeVar("Inner", bound=Protobuf)


class Decryptor:
    """Decryption of texts sealed with the data key of their principal, for one snapshot.

    Texts are readable if the principal consents to training, and the rater too if there is one;
    otherwise they are withheld with a reason. A principal unknown to the log has not consented.
    Rows written before sealing existed hold plain text, and the same consent applies to them.
    """

    def __init__(self, keys: Mapping[str, DataKey], erased: Collection[str]) -> None:
        self._keys, self._erased = keys, frozenset(erased)

    def feedback(self, row: Row, segment: Segment) -> Texts:
        """Return the texts of a feedback row.

        Raises:
            SealError: the sealed bytes are invalid.
        """
        if withheld := self._withheld_reason(row):
            return Texts(withheld)
        if not row.get("sealed"):
            return Texts(correction=row.get("correction") or "")
        event = self._decrypt(row, segment, events_pb2.FeedbackEvent())
        return Texts(
            correction=event.correction.text,
            ranked=tuple(answer.text for answer in event.ranking.answers),
        )

    def turn(self, row: Row, segment: Segment) -> Texts:
        """Return context, answer and sample of a turn row; plain rows have no sample.

        Raises:
            SealError: the sealed bytes are invalid.
        """
        if withheld := self._withheld_reason(row):
            return Texts(withheld)
        if not row.get("sealed"):
            context = tuple(
                Message(part["role"], part["text"]) for part in row.get("context") or ()
            )
            return Texts(context=context, answer=row.get("answer") or "")
        turn = self._decrypt(row, segment, events_pb2.TurnEvent())
        # Roles are spelled as in the plain columns: user, assistant or system.
        context = tuple(
            Message(chat_pb2.Role.Name(m.role).removeprefix("ROLE_").lower(), m.text)
            for m in turn.context
        )
        served = None
        if turn.HasField("sample"):
            served = Served(
                version=row.get("model_version") or "",
                token_ids=tuple(turn.sample.token_ids),
                log_probs=tuple(turn.sample.log_probs),
                prompt_tokens=row.get("prompt_tokens") or 0,
                temperature=_six_digits(row.get("temperature") or 0.0),
                top_p=_six_digits(row.get("top_p") or 0.0),
            )
        return Texts(context=context, answer=turn.answer, served=served)

    def _withheld_reason(self, row: Row) -> Withheld | None:
        people, sealed = _people(row), row.get("sealed")
        keys = [self._keys.get(principal) for principal in people]
        consenting = [key for key in keys if key is not None and key.consent]
        if len(consenting) < len(people):
            return Withheld.NO_CONSENT
        if not sealed:
            # Every event after an erasure is sealed, so plain rows are older than the erasure.
            return Withheld.ERASED if self._erased & set(people) else None
        # Bytes of another format name no key; decryption refuses them.
        if not _has_form(sealed, len(people)):
            return None
        key_ids = [key.key_id for key in consenting]
        named = [sealed[KEY_ID], sealed[RATER_KEY_ID]][: len(people)]
        return None if named == key_ids else Withheld.ERASED

    def _decrypt(self, row: Row, segment: Segment, inner: Inner) -> Inner:
        sealed: bytes = row["sealed"]
        people = _people(row)
        # Associated data bind the ciphertext to event and principal, and to the rater.
        bound_to = "/".join((str(row.get("event_id")), *people)).encode()
        try:
            if not _has_form(sealed, len(people)):
                raise DecodeError
            key = b"".join(self._keys[principal].key for principal in people)
            if len(people) > 1:
                key = HKDF(SHA256(), len(key) // 2, None, RATED_INFO).derive(key)
            start = NONCE_START[sealed[0]]
            nonce, ciphertext = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
            inner.ParseFromString(AESGCM(key).decrypt(nonce, ciphertext, bound_to))
        except (InvalidTag, DecodeError):
            # Suppress the cause: the message of a decoder may repeat the bytes.
            raise SealError(
                f"sealed: {segment.object_key} cannot be opened at offset {row.get('offset')!r}",
                field="sealed",
            ) from None
        return inner


def load_decryptor(log: KeyLog, tables: Iterable[pa.Table]) -> Decryptor:
    """Fetch the keys of all principals in these tables with one request."""
    principals = {
        name
        for table in tables
        for column in {"principal", "rater"} & set(table.column_names)
        for name in table.column(column).unique().to_pylist()
        if name
    }
    keys = log.data_keys(sorted(principals))
    return Decryptor(keys, {erasure.principal for erasure in log.erasures(0)})


def _six_digits(value: float) -> float:
    """Round to six digits: 0.9 as a 32-bit float reads 0.89999998."""
    return round(value, 6)


def _people(row: Row) -> tuple[str, ...]:
    """Return the principals to whom a row belongs: the user, and the rater if there is one."""
    principal, rater = row.get("principal") or "", row.get("rater") or ""
    return (principal, rater) if rater else (principal,)


def _has_form(sealed: bytes, people: int) -> bool:
    """Return True for sealed bytes with the ids of as many keys as people."""
    form = RATED_FORM if people > 1 else FORM
    return sealed[0] == form and len(sealed) >= NONCE_START[form] + NONCE_BYTES + TAG_BYTES
