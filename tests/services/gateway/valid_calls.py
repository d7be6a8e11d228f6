"""Every public method of the gateway with a valid request."""

from collections.abc import Mapping
from typing import Any

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2

METHODS = [
    method
    for service in (
        chat_pb2.DESCRIPTOR.services_by_name["ChatService"],
        feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
    )
    for method in service.methods
]
# Other fields required for a request to reach the check of its ids.
VALID: Mapping[str, dict[str, Any]] = {
    "SendMessage": {"input": {"text": "hello"}},
    "SubmitFeedback": {"requestId": "r", "thumb": {"up": True}},
    "SetConsent": {"training": False},
}
