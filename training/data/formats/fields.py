"""Checks of the fields of one row of unknown origin.

Errors name the field and the limit, never the content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.errors import DetailedError

Row = Mapping[str, Any]
Messages = list[dict[str, str]]

ROLES = ("system", "user", "assistant")
# Fields of a message that carry a call of a tool or its result, and the roles of such messages.
TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id")
TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")


class ExampleError(DetailedError, ValueError):
    """Error for an invalid row of a data file; the message never contains text content.

    `field` is "file:row:key", or "file:row" for a problem with the whole row.
    """

    reason = "INVALID_EXAMPLE"


@dataclass(frozen=True)
class MessageNames:
    """Names of the fields of a message, and our role for each of its roles."""

    role: str
    content: str
    roles: Mapping[str, str]

    @property
    def fields(self) -> tuple[str, str]:
        """Names of both fields."""
        return self.role, self.content


CHAT = MessageNames("role", "content", {role: role for role in ROLES})
SHAREGPT = MessageNames(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
    },
)


def value_in(row: Row, field: str) -> Any:
    """Return the value of a required field.

    Raises:
        ExampleError: the field is missing.
    """
    if field not in row:
        raise ExampleError(f"{field}: missing", field=field, reason="MISSING")
    return row[field]


def text_in(row: Row, field: str) -> str:
    """Return a text of at least one character.

    Raises:
        ExampleError: the value is missing, empty, not text, or cannot be encoded.
    """
    value = value_in(row, field)
    if not isinstance(value, str) or not value:
        raise ExampleError(
            f"{field}: must be text and not empty",
            field=field,
            reason="EMPTY" if value == "" else "WRONG_TYPE",
        )
    check_surrogates(field, value)
    return value


def flag_in(row: Row, field: str, default: bool | None = None) -> bool:
    """Return true or false; without a default the field is required.

    Raises:
        ExampleError: the value is missing or something else, such as 1 or "true".
    """
    value = value_in(row, field) if default is None else row.get(field, default)
    if not isinstance(value, bool):
        raise ExampleError(
            f"{field}: must be true or false", field=field, reason="WRONG_TYPE", limit="true, false"
        )
    return value


def number_in(row: Row, field: str, default: float) -> float:
    """Return a finite number of at least 0.

    Raises:
        ExampleError: the value is something else.
    """
    value = row.get(field, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < float("inf")
    ):
        raise ExampleError(
            f"{field}: must be a number of at least 0",
            field=field,
            reason="OUT_OF_RANGE",
            limit="at least 0",
        )
    return float(value)


def messages_in(row: Row, field: str, names: MessageNames = CHAT) -> Messages:
    """Return a list of at least one message, with our names of fields and roles.

    Raises:
        ExampleError: the list is missing or empty; a message has no role, an unknown one, no text,
            or belongs to a call of a tool.
    """
    values = value_in(row, field)
    if not isinstance(values, list) or not values:
        raise ExampleError(
            f"{field}: must be a list with at least one message",
            field=field,
            reason="EMPTY" if values == [] else "WRONG_TYPE",
            limit="at least 1",
        )
    return [_message(value, number, field, names) for number, value in enumerate(values, start=1)]


def _message(value: object, number: int, field: str, names: MessageNames) -> dict[str, str]:
    place = f"{field}: message {number}"
    if not isinstance(value, Mapping) or not isinstance(value.get(names.role), str):
        raise ExampleError(
            f"{place} needs {names.role} ({', '.join(names.roles)}) and {names.content} (text)",
            field=field,
            reason="MALFORMED",
        )
    role = value[names.role]
    called = next((name for name in TOOL_FIELDS if value.get(name)), None)
    if role in TOOL_ROLES or called:
        raise ExampleError(
            f"{place} has {called or f'{names.role} {role}'}; messages of tools are not supported",
            field=field,
            reason="UNSUPPORTED",
            limit=", ".join(names.roles),
        )
    if role not in names.roles:
        raise ExampleError(
            f"{place} has an unknown {names.role}; known: {', '.join(names.roles)}",
            field=field,
            reason="UNKNOWN",
            limit=", ".join(names.roles),
        )
    content = value.get(names.content)
    if not isinstance(content, str):
        raise ExampleError(
            f"{place}: {names.content} must be text"
            + (", not a list of parts" if isinstance(content, list) else ""),
            field=field,
            reason="MISSING" if content is None else "WRONG_TYPE",
        )
    check_surrogates(field, content)
    return {"role": names.roles[role], "content": content}


def check_context(messages: Sequence[Mapping[str, str]], field: str) -> None:
    """Refuse messages after which no answer can follow.

    Raises:
        ExampleError: the last message is the assistant's.
    """
    if messages[-1]["role"] == "assistant":
        raise ExampleError(
            f"{field}: the last message before the answer is the assistant's",
            field=field,
            reason="CONFLICT",
        )


def check_surrogates(field: str, text: str) -> None:
    """Refuse unpaired surrogates: JSON can spell them, UTF-8 and tokenizers cannot encode them.

    Raises:
        ExampleError: the text has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ExampleError(
            f"{field}: U+{ord(text[error.start]):04X} is an unpaired surrogate",
            field=field,
            reason="NOT_UTF8",
        ) from error
