"""Unsealing of sealed events, written from the layout, independent of the product code."""

from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from thumbwheel.feedback.v1 import events_pb2

MessageT = TypeVar("MessageT", events_pb2.FeedbackEvent, events_pb2.TurnEvent)


def opened(event: MessageT, key: bytes) -> MessageT:
    """Return the event with its texts.

    Raises:
        InvalidTag: The key is another one.
    """
    sealed, whole = event.sealed, type(event)()
    texts = AESGCM(key).decrypt(
        sealed[17:29], sealed[29:], f"{event.event_id}/{event.principal}".encode()
    )
    whole.CopyFrom(event)
    whole.ClearField("sealed")
    whole.MergeFromString(texts)
    return whole


def rated_texts(
    event: events_pb2.FeedbackEvent, key: bytes, rater_key: bytes
) -> events_pb2.FeedbackEvent:
    """Return the texts of a reviewer's event.

    Raises:
        InvalidTag: A key is another one.
    """
    sealed = event.sealed
    both = HKDF(SHA256(), 32, None, b"thumbwheel.feedback.rated").derive(key + rater_key)
    bound_to = f"{event.event_id}/{event.principal}/{event.rater}".encode()
    texts = AESGCM(both).decrypt(sealed[33:45], sealed[45:], bound_to)
    return events_pb2.FeedbackEvent.FromString(texts)
