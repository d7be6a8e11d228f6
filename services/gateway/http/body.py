"""Strict JSON request bodies with size and time limits. Errors name the field."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request

from services.chassis.errors import InvalidArgumentError
from services.gateway.http.errors import BodyFieldError, BodyTooLargeError, BodyTooSlowError
from services.gateway.request_counts import check_json_counts

# Bodies are parsed on the event loop, 4 to 13 ms for these 256 KiB (json.loads of small items).
MAX_BODY_BYTES = 256 * 1024
MAX_BODY_SECONDS = 30.0

MessageT = TypeVar("MessageT", bound=Message)
# Values of a field in words, by the type of the field.
KINDS: Mapping[int, str] = {
    FieldDescriptor.CPPTYPE_STRING: "a text in valid Unicode",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_MESSAGE: "an object",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
}


def name_by_path(request: Request, message: Message, field: str) -> None:
    """Set a field of the body to the value of the path.

    Raises:
        InvalidArgumentError: The body has another value.
    """
    value = request.path_params[field]
    if getattr(message, field) not in ("", value):
        json_name = message.DESCRIPTOR.fields_by_name[field].json_name
        limit = "absent, or that of the path"
        raise BodyFieldError(f"{json_name} must be {limit}", field=json_name, limit=limit)
    setattr(message, field, value)


async def read_object(request: Request, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """Return the body as a JSON object.

    Raises:
        BodyTooLargeError: The body exceeds `max_bytes`. Reading stops at twice the limit.
        BodyTooSlowError: The body took longer than 30 s.
        InvalidArgumentError: The body is not UTF-8, not JSON, or not an object, or an object in it
            has a field twice.
    """
    try:
        text = (await read_bytes(request, max_bytes)).decode()
        value = json.loads(text, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise _body_error("the body is not valid UTF-8", "UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _body_error("the body is not valid JSON", "one JSON object") from error
    if not isinstance(value, dict):
        raise _body_error("the body is not a JSON object", "one JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names are unique texts in valid Unicode.

    Parsers disagree on which of two values counts (RFC 8259, section 4), so a proxy or a filter in
    front of the gateway could have judged the other one. Half a surrogate pair in a name is a
    SystemError of protobuf.
    """
    found = dict(pairs)
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown = name[:64].encode(errors="backslashreplace").decode()
            limit = "a name in valid Unicode"
            raise BodyFieldError(f"{shown} is not {limit}", field=shown, limit=limit) from error
    if len(found) != len(pairs):
        [(name, count)] = Counter(name for name, _ in pairs).most_common(1)
        raise BodyFieldError(f"{name[:64]} is given {count} times", field=name[:64], limit="once")
    return found


async def read_message(request: Request, kind: type[MessageT]) -> MessageT:
    """Return the body, in protobuf's JSON format, as a message.

    Raises:
        InvalidArgumentError: A field is invalid or unknown. The error names the field.
    """
    return to_message(await read_object(request), kind)


def to_message(value: dict[str, Any], kind: type[MessageT]) -> MessageT:
    """Return a JSON object as a message.

    Raises:
        InvalidArgumentError: A field is invalid or unknown. The error names the field.
    """
    message = kind()
    check_json_counts(value, cast(Descriptor, kind.DESCRIPTOR))
    try:
        json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise _culprit(value, cast(Descriptor, kind.DESCRIPTOR), "") from error
    return message


def to_json(message: Message) -> dict[str, Any]:
    """Return a message in protobuf's JSON format, with empty fields present for the page."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def _culprit(value: dict[str, Any], descriptor: Descriptor, path: str) -> InvalidArgumentError:
    """Find the invalid field by parsing each part separately.

    The error of protobuf does not always name the field, and quotes the text. The counts are
    checked before, so that few items are parsed again.
    """
    by_name = {field.json_name: field for field in descriptor.fields} | {
        field.name: field for field in descriptor.fields
    }
    for name, part in value.items():
        field = by_name.get(name)
        if field is None:
            known = ", ".join(sorted({field.json_name for field in descriptor.fields}))
            return BodyFieldError(
                f"{path}{name[:64]} is not a known field", field=f"{path}{name[:64]}", limit=known
            )
        if not _parses({name: part}, descriptor):
            return _culprit_in(field, part, f"{path}{name}")
    return _body_error(
        "fields of the body exclude each other, or are given twice", "one field of a oneof, once"
    )


def _culprit_in(field: FieldDescriptor, part: Any, path: str) -> InvalidArgumentError:
    kind = field.message_type
    if kind is not None and isinstance(part, dict):
        return _culprit(part, kind, f"{path}.")
    if kind is not None and field.is_repeated and isinstance(part, list):
        for number, item in enumerate(part):
            if isinstance(item, dict) and not _parses(item, kind):
                return _culprit(item, kind, f"{path}[{number}].")
    wanted = (
        ", ".join(value.name for value in field.enum_type.values)
        if field.enum_type
        else f"JSON of {KINDS.get(field.cpp_type, 'a whole number within its range')}"
    )
    return BodyFieldError(f"{path} has a wrong value", field=path, limit=wanted)


def _parses(value: dict[str, Any], descriptor: Descriptor) -> bool:
    try:
        json_format.ParseDict(value, GetMessageClass(descriptor)())
    except json_format.ParseError:
        return False
    return True


async def read_bytes(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the whole body.

    A body up to twice the limit is read to its end: a connection that is closed before that may be
    reset, and the client then loses the response.

    Raises:
        BodyTooLargeError: As in `read_object`.
        BodyTooSlowError: As in `read_object`.
        ResourceExhaustedError: Too many incomplete bodies of the caller.
    """
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS), request.state.receive_slot:
            parts: list[bytes] = []
            size = 0
            async for part in request.stream():
                size += len(part)
                if size <= max_bytes:
                    parts.append(part)
                elif size > 2 * max_bytes:
                    break
            if size > max_bytes:
                raise BodyTooLargeError(
                    f"body must be at most {max_bytes} bytes",
                    field="body",
                    limit=f"{max_bytes} bytes",
                )
            return b"".join(parts)
    except TimeoutError as error:
        limit = f"{MAX_BODY_SECONDS:g} s"
        raise BodyTooSlowError(
            "the body did not arrive in time", field="body", limit=limit
        ) from error


def _body_error(text: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(text, field="body", limit=limit)
