"""Opens what services/feedback sealed, written after the layout and not after its code: only
readers open.
"""

from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from thumbwheel.feedback.v1 import events_pb2

MessageT = TypeVar("MessageT", events_pb2.FeedbackEvent, events_pb2.TurnEvent)


def opened(event: MessageT, key: bytes) -> MessageT:
    """The event as it was said. Raises: InvalidTag."""
    sealed, whole = event.sealed, type(event)()
    texts = AESGCM(key).decrypt(
        sealed[17:29], sealed[29:], f"{event.event_id}/{event.principal}".encode()
    )
    whole.CopyFrom(event)
    whole.ClearField("sealed")
    whole.MergeFromString(texts)
    return whole
