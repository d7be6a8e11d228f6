"""Every public method of the gateway with a valid request, and its fields with ids."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.review.v1 import appeal_pb2, arena_pb2, review_pb2

METHODS = [
    method
    for service in (
        chat_pb2.DESCRIPTOR.services_by_name["ChatService"],
        feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
        arena_pb2.DESCRIPTOR.services_by_name["ArenaService"],
        appeal_pb2.DESCRIPTOR.services_by_name["AppealService"],
        review_pb2.DESCRIPTOR.services_by_name["ReviewService"],
    )
    for method in service.methods
]
REVIEW = {"review": {"writtenAnswer": "A better answer."}}
# Other fields required for a request to reach the check of its ids.
VALID: Mapping[str, dict[str, Any]] = {
    "SendMessage": {"input": {"text": "hello"}},
    "SubmitFeedback": {"requestId": "r", "thumb": {"up": True}},
    "SetConsent": {"training": False},
    "CreateBattle": {"requestId": "r"},
    "VoteBattle": {
        "messageIds": [f"018f0000-0000-7000-8000-00000000000{digit}" for digit in (1, 2)],
        "outcome": "OUTCOME_TIE",
    },
    "SubmitReview": REVIEW,
    "ResolveDisagreement": REVIEW,
}


def _id_fields(descriptor: Descriptor, path: str = "") -> Iterator[str]:
    """Return the JSON paths of all fields with object ids."""
    for field in descriptor.fields:
        if (
            field.type == FieldDescriptor.TYPE_STRING
            and field.name.endswith("_id")
            and field.name != "request_id"
        ):
            yield f"{path}{field.json_name}"
        elif field.message_type is not None and not field.is_repeated:
            yield from _id_fields(field.message_type, f"{path}{field.json_name}.")


ID_FIELDS = [(method, path) for method in METHODS for path in _id_fields(method.input_type)]
