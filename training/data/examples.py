"""Readers for the JSON-lines files of the training stages.

Invalid lines raise an error with file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from training.data.chat import Message
from training.data.served import SampleError, Served, served_from
from training.errors import DetailedError

ROLES = ("system", "user", "assistant")
THUMBS = ("up", "down")


class ExampleError(DetailedError, ValueError):
    """Error for an invalid line of a data file; the message never contains text content.

    `field` is "file:line:key", or "file:line" for a problem with the whole line.
    """

    reason = "INVALID_EXAMPLE"


@dataclass(frozen=True)
class SftExample:
    """A conversation and the target response."""

    messages: tuple[Message, ...]
    response: str
    weight: float = 1.0


@dataclass(frozen=True)
class PairExample:
    """Two responses to one conversation.

    `margin` is the desired difference of their scores (0: unknown). With `tie`, neither is better.
    `weight` is the factor on the loss. `source` is the origin of the preference, "" if unknown.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    prompt_id: str
    margin: float = 0.0
    tie: bool = False
    weight: float = 1.0
    source: str = ""

    @property
    def is_identical(self) -> bool:
        """True if both responses are the same text and the pair carries no information."""
        return self.chosen == self.rejected

    @property
    def is_decided(self) -> bool:
        """True if the pair states a preference."""
        return not self.tie and not self.is_identical


@dataclass(frozen=True)
class ThumbExample:
    """A response with its thumb (up or down).

    `served` holds the tokens sampled by the serving version, if known.
    """

    messages: tuple[Message, ...]
    response: str
    up: bool
    prompt_id: str
    served: Served | None = None


@dataclass(frozen=True)
class PromptExample:
    """A conversation without a response. `task` is an opaque key for verifiers."""

    messages: tuple[Message, ...]
    task: str = ""


Example = TypeVar("Example")


def read_sft(path: Path) -> list[SftExample]:
    """Read SFT examples: {"messages", "response", "weight" = 1} per line."""
    return _read(
        path,
        lambda row: SftExample(_messages(row), _text(row, "response"), _number(row, "weight", 1.0)),
    )


def read_pairs(path: Path) -> list[PairExample]:
    """Read preference pairs.

    Line format: {"messages", "chosen", "rejected", "prompt_id", "margin" = 0, "tie" = false,
    "weight" = 1, "source" = ""}.
    """

    def parse(row: Mapping[str, Any]) -> PairExample:
        texts = (_text(row, "chosen"), _text(row, "rejected"), _text(row, "prompt_id"))
        messages, margin, tie = _messages(row), _number(row, "margin", 0.0), row.get("tie", False)
        if not isinstance(tie, bool):
            raise ExampleError(
                "tie: must be true or false", field="tie", reason="WRONG_TYPE", limit="true, false"
            )
        weight = _number(row, "weight", 1.0)
        source = _text(row, "source") if row.get("source") else ""
        pair = PairExample(messages, *texts, margin, tie, weight, source)
        if pair.tie and pair.margin:
            raise ExampleError(
                f"margin: a tie has none, not {pair.margin:g}", field="margin", reason="CONFLICT"
            )
        return pair

    return _read(path, parse)


def read_thumbs(path: Path) -> list[ThumbExample]:
    """Read rated responses.

    Line format: {"messages", "response", "thumb": "up" or "down", "prompt_id", "served" =
    {"version", "token_ids", "log_probs", …}}.
    """

    def parse(row: Mapping[str, Any]) -> ThumbExample:
        thumb = row.get("thumb")
        if thumb not in THUMBS:
            raise ExampleError(
                f"thumb: must be one of {', '.join(THUMBS)}",
                field="thumb",
                reason="UNKNOWN",
                limit=", ".join(THUMBS),
            )
        texts = (_text(row, "response"), thumb == "up", _text(row, "prompt_id"))
        return ThumbExample(_messages(row), *texts, _served(row))

    return _read(path, parse)


def read_prompts(path: Path) -> list[PromptExample]:
    """Read prompts: {"messages", "task" = ""} per line."""
    return _read(
        path, lambda row: PromptExample(_messages(row), _text(row, "task") if "task" in row else "")
    )


def read_texts(path: Path) -> list[str]:
    """Read texts: {"text"} per line."""
    return _read(path, lambda row: _text(row, "text"))


def _read(path: Path, parse: Callable[[Mapping[str, Any]], Example]) -> list[Example]:
    examples: list[Example] = []
    wrong: list[ExampleError] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                examples.append(parse(_object(line)))
            except ExampleError as error:
                field = f"{path.name}:{number}:{error.field}".removesuffix(":")
                text = f"{path.name} line {number}: {error}"
                wrong.append(
                    ExampleError(text, field=field, reason=error.reason, limit=error.limit)
                )
    if wrong:
        first, more = wrong[0], len(wrong) - 1
        text = first.text + (
            f" (and {more} more {'lines' if more > 1 else 'line'})" if more else ""
        )
        raise ExampleError(text, field=first.field, reason=first.reason, limit=first.limit)
    if not examples:
        raise ExampleError(f"{path.name}: no examples", field=path.name, reason="EMPTY")
    return examples


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ExampleError(f"not UTF-8 at byte {error.start + 1}", reason="NOT_UTF8") from error
    except json.JSONDecodeError as error:
        if not line.strip():
            raise ExampleError("empty", reason="EMPTY") from error
        raise ExampleError("not JSON; one object a line", reason="MALFORMED") from error
    if not isinstance(row, dict):
        raise ExampleError("not a JSON object; one a line", reason="WRONG_TYPE")
    return row


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    rows = _value(row, "messages")
    if not isinstance(rows, list) or not rows:
        raise ExampleError(
            "messages: must be a list with at least one message",
            field="messages",
            reason="EMPTY" if rows == [] else "WRONG_TYPE",
            limit="at least 1",
        )
    for message in rows:
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise ExampleError(
                f"messages: each needs role ({', '.join(ROLES)}) and content (text)",
                field="messages",
                reason="MALFORMED",
            )
        _check_surrogates("messages", message["content"])
    if rows[-1]["role"] == "assistant":
        raise ExampleError(
            "messages: the last message is the assistant's; the response has its own field",
            field="messages",
            reason="CONFLICT",
        )
    return tuple(Message(message["role"], message["content"]) for message in rows)


def _served(row: Mapping[str, Any]) -> Served | None:
    try:
        return served_from(row["served"]) if "served" in row else None
    except SampleError as error:
        field = f"served.{error.field}".removesuffix(".")
        raise ExampleError(
            f"served: {error}", field=field, reason=error.reason, limit=error.limit
        ) from error
    except (ValueError, TypeError) as error:
        raise ExampleError(f"served: {error}", field="served", reason="MALFORMED") from error


def _value(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise ExampleError(f"{field}: missing", field=field, reason="MISSING")
    return row[field]


def _text(row: Mapping[str, Any], field: str) -> str:
    value = _value(row, field)
    if not isinstance(value, str) or not value:
        raise ExampleError(
            f"{field}: must be text and not empty",
            field=field,
            reason="EMPTY" if value == "" else "WRONG_TYPE",
        )
    _check_surrogates(field, value)
    return value


def _check_surrogates(field: str, text: str) -> None:
    """Refuse unpaired surrogates, which JSON can spell but UTF-8 and tokenizers cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ExampleError(
            f"{field}: U+{ord(text[error.start]):04X} is an unpaired surrogate",
            field=field,
            reason="NOT_UTF8",
        ) from error


def _number(row: Mapping[str, Any], field: str, default: float) -> float:
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
