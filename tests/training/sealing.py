"""Sealed texts in the layout of events.proto, written independently of the product.

So the tests do not verify the product against itself.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

ROLES = {
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
    "system": chat_pb2.ROLE_SYSTEM,
}


@dataclass(frozen=True)
class Key:
    """A data key; each generation has another."""

    id: bytes
    bytes: bytes

    @classmethod
    def of(cls, principal: str, generation: int) -> "Key":
        digest = hashlib.sha512(f"{principal} {generation}".encode()).digest()
        return cls(digest[:16], digest[32:])


def sealed_row(row: dict[str, Any], key: Key, rater_key: Key | None = None) -> dict[str, Any]:
    """Return the row with its texts only in `sealed`; a reviewer's row needs both keys."""
    if "context" in row:
        context = [
            chat_pb2.HistoryMessage(role=ROLES[part["role"]], text=part["text"])
            for part in row["context"]
        ]
        inner = events_pb2.TurnEvent(context=context, answer=row["answer"])
        row = {**row, "context": [], "answer": ""}
        # Ids and log-probs are only in `sealed`, never in a column.
        if sample := row.pop("sample", None):
            inner.sample.token_ids.extend(sample[0])
            inner.sample.log_probs.extend(sample[1])
    else:
        inner = events_pb2.FeedbackEvent()
        if row.get("correction"):
            inner.correction.text = row["correction"]
            row = {**row, "correction": ""}
        if any(answer["text"] for answer in row.get("ranking", ())):
            for answer in row["ranking"]:
                inner.ranking.answers.add(text=answer["text"])
            row = {**row, "ranking": [{**answer, "text": ""} for answer in row["ranking"]]}
    texts = inner.SerializeToString()
    sealed = (
        seal_rated(texts, (key, rater_key), row["event_id"], (row["principal"], row["rater"]))
        if rater_key
        else seal(texts, key, row["event_id"], row["principal"])
    )
    return {**row, "sealed": sealed}


def seal_rated(
    texts: bytes, keys: tuple[Key, Key], event_id: str, people: tuple[str, str]
) -> bytes:
    """Seal the texts of a reviewer under a key derived from both keys."""
    nonce = hashlib.sha256(event_id.encode()).digest()[:12]
    both = HKDF(SHA256(), 32, None, b"thumbwheel.feedback.rated").derive(
        keys[0].bytes + keys[1].bytes
    )
    bound_to = f"{event_id}/{people[0]}/{people[1]}".encode()
    return b"\x02" + keys[0].id + keys[1].id + nonce + AESGCM(both).encrypt(nonce, texts, bound_to)


def seal(texts: bytes, key: Key, event_id: str, principal: str) -> bytes:
    nonce = hashlib.sha256(event_id.encode()).digest()[:12]
    return (
        b"\x01"
        + key.id
        + nonce
        + AESGCM(key.bytes).encrypt(nonce, texts, f"{event_id}/{principal}".encode())
    )
