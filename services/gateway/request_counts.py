"""Counts of repeated fields in requests, checked before the cost of a request depends on them.

ParseDict and the search for unknown fields run in Python on the event loop, about a microsecond for
each item. JSON is checked as a plain dict, protobuf before its messages are walked.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from services.contracts.limits import (
    MAX_HISTORY,
    MAX_ITEM_ANSWERS,
    MAX_REASONS,
    MAX_STOPS,
    field_error,
)

# Repeated fields of all public requests. A repeated field without an entry is refused.
MAX_ITEMS: Mapping[str, int] = {
    "thumbwheel.chat.v1.UserInput.history": MAX_HISTORY,
    "thumbwheel.chat.v1.SamplingOverrides.stop": MAX_STOPS,
    "thumbwheel.feedback.v1.Thumb.reasons": MAX_REASONS,
    "thumbwheel.review.v1.VoteBattleRequest.message_ids": 2,
    "thumbwheel.review.v1.Review.scores": MAX_ITEM_ANSWERS,
    "thumbwheel.review.v1.Review.ranks": MAX_ITEM_ANSWERS,
}


def check_json_counts(value: Mapping[str, Any], descriptor: Descriptor, path: str = "") -> None:
    """Check the lists of a JSON object that is not converted to protobuf yet.

    Unknown fields and values of a wrong type are skipped; the conversion refuses them.

    Raises:
        InvalidArgumentError: A list is too long.
    """
    fields = {field.json_name: field for field in descriptor.fields}
    fields |= {field.name: field for field in descriptor.fields}
    for name in fields.keys() & value.keys():
        field, part = fields[name], value[name]
        parts = part if isinstance(part, list) else [part]
        if field.is_repeated:
            _check_length(field, len(parts), f"{path}{field.name}")
        if field.message_type is not None:
            # Only the first item of a list is converted if the field is not repeated.
            for item in parts if field.is_repeated else parts[:1]:
                if isinstance(item, dict):
                    check_json_counts(item, field.message_type, f"{path}{field.name}.")


def check_message_counts(message: Message, path: str = "") -> None:
    """Check the repeated fields of a message and of its parts.

    Raises:
        InvalidArgumentError: A repeated field has too many items.
    """
    for field, value in message.ListFields():
        if field.is_repeated:
            _check_length(field, len(value), f"{path}{field.name}")
        if field.message_type is not None:
            parts: Iterable[Message] = value if field.is_repeated else (value,)
            for part in parts:
                check_message_counts(part, f"{path}{field.name}.")


def _check_length(field: FieldDescriptor, length: int, path: str) -> None:
    limit = MAX_ITEMS.get(field.full_name, 0)
    if length > limit:
        raise field_error(path, f"at most {limit} items", f"{length:,}")
