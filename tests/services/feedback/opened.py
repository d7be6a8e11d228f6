"""Unsealing of sealed events, written from the layout, independent of the product code."""

from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
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
