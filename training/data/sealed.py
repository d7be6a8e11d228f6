"""Texts that the log holds sealed under their principal's data key: opened for training where the
principal allows it, closed with a reason otherwise. Rows of the time before sealing hold theirs in
plain columns, and the same consent is asked for them.

`sealed` is a byte 1, the key's id (16 bytes), a nonce (12), then AES-256-GCM of a message that
holds nothing but the texts, with event_id/principal as associated data (events.proto).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from training.data.catalogue import Segment
from training.data.chat import Message
from training.data.events import Closed, Erasure
from training.data.served import Served
from training.errors import DetailedError

FORM = 1
KEY_ID, NONCE, CIPHERTEXT = slice(1, 17), slice(17, 29), slice(29, None)
LEAST_BYTES = 29 + 16  # the ciphertext of nothing is its tag


class SealError(DetailedError, ValueError):
    """Sealed bytes are none, were changed, or belong to another event; the text names object and
    offset, nothing else.
    """

    reason = "DAMAGED"


@dataclass(frozen=True)
class DataKey:
    """What opens the texts of one principal. key_id is empty where nothing is left to open; without
    consent there is no key.
    """

    consent: bool
    key_id: bytes = b""
    key: bytes = field(default=b"", repr=False)


class KeyLog(Protocol):
    """Who allows training, with which key, and who asked to be erased."""

    def data_keys(self, principals: Sequence[str]) -> Mapping[str, DataKey]: ...

    def erasures(self, after: int) -> Sequence[Erasure]: ...


@dataclass(frozen=True)
class Texts:
    """What a row says, or why that may not be read."""

    closed: Closed | None = None
    context: tuple[Message, ...] = ()
    answer: str = ""
    correction: str = ""
    served: Served | None = None


Row = Mapping[str, Any]
Inner = TypeVar("Inner", bound=Protobuf)


class Opening:
    """The keys of one snapshot. A principal of whom the log says nothing has allowed nothing."""

    def __init__(self, keys: Mapping[str, DataKey], erased: Collection[str]) -> None:
        self._keys, self._erased = keys, erased

    def feedback(self, row: Row, segment: Segment) -> Texts:
        """The words of a feedback row. Raises: SealError."""
        if closed := self._closed(row):
            return Texts(closed)
        if not row.get("sealed"):
            return Texts(correction=row.get("correction") or "")
        return Texts(
            correction=self._opened(row, segment, events_pb2.FeedbackEvent()).correction.text
        )

    def turn(self, row: Row, segment: Segment) -> Texts:
        """Context and answer of a turn's row, and what was sampled: that was never written plain.
        Raises: SealError.
        """
        if closed := self._closed(row):
            return Texts(closed)
        if not row.get("sealed"):
            context = tuple(
                Message(part["role"], part["text"]) for part in row.get("context") or ()
            )
            return Texts(context=context, answer=row.get("answer") or "")
        turn = self._opened(row, segment, events_pb2.TurnEvent())
        context = tuple(Message(_role(m.role), m.text) for m in turn.context)
        return Texts(context=context, answer=turn.answer, served=_served(turn, row))

    def _closed(self, row: Row) -> Closed | None:
        principal, sealed = row.get("principal") or "", row.get("sealed")
        key = self._keys.get(principal)
        if key is None or not key.consent:
            return Closed.NO_CONSENT
        if not sealed:
            # Since there are erasures every event is sealed: what is plain was said before.
            return Closed.ERASED if principal in self._erased else None
        # Bytes of another form name no key: they are refused when they are opened.
        return Closed.ERASED if _has_form(sealed) and sealed[KEY_ID] != key.key_id else None

    def _opened(self, row: Row, segment: Segment, inner: Inner) -> Inner:
        sealed: bytes = row["sealed"]
        bound_to = f"{row.get('event_id')}/{row.get('principal')}".encode()
        try:
            if not _has_form(sealed):
                raise DecodeError
            key = AESGCM(self._keys[row["principal"]].key)
            inner.ParseFromString(key.decrypt(sealed[NONCE], sealed[CIPHERTEXT], bound_to))
        except (InvalidTag, DecodeError):
            # Without its cause: what a decoder says of bytes may repeat them.
            raise SealError(
                f"sealed: {segment.object_key} cannot be opened at offset {row.get('offset')!r}",
                field="sealed",
            ) from None
        return inner


def open_with(log: KeyLog, tables: Iterable[pa.Table]) -> Opening:
    """Ask once for everybody whom these tables hold."""
    principals = {
        name for table in tables for name in table.column("principal").unique().to_pylist() if name
    }
    keys = log.data_keys(sorted(principals))
    return Opening(keys, {erasure.principal for erasure in log.erasures(0)})


def _served(turn: events_pb2.TurnEvent, row: Row) -> Served | None:
    if not turn.HasField("sample"):
        return None
    return Served(
        version=row.get("model_version") or "",
        token_ids=tuple(turn.sample.token_ids),
        log_probs=tuple(turn.sample.log_probs),
        prompt_tokens=row.get("prompt_tokens") or 0,
        temperature=_plain(row.get("temperature") or 0.0),
        top_p=_plain(row.get("top_p") or 0.0),
    )


def _plain(value: float) -> float:
    """A 32-bit 0.9 is 0.89999998: six digits are what was meant."""
    return round(value, 6)


def _has_form(sealed: bytes) -> bool:
    return sealed[0] == FORM and len(sealed) >= LEAST_BYTES


def _role(role: chat_pb2.Role.ValueType) -> str:
    """As in the plain columns: user, assistant, system."""
    return chat_pb2.Role.Name(role).removeprefix("ROLE_").lower()
