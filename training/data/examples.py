"""Examples of the training stages, read from data files of any known format.

Invalid rows raise an error with file, row and field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from training.data.chat import Message
from training.data.feedback.texts import prompt_key
from training.data.formats.catalogue import PAIRS, PROMPTS, SFT, THUMBS, RowKind
from training.data.formats.detection import FileFormat
from training.data.formats.fields import (
    ExampleError,
    Row,
    check_context,
    flag_in,
    messages_in,
    number_in,
    text_in,
)
from training.data.formats.files import read_objects
from training.data.served import SampleError, Served, served_from

THUMBS_UP_DOWN = ("up", "down")


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


@dataclass
class DataSummary:
    """Contents of a data file.

    Attributes:
        rows: number of rows.
        format: name of their format.
        earlier_answers: messages of the assistant before the response, from which SFT learns
            nothing; counted where the response is the last message of a conversation.
        ignored: rows with each unknown field that was ignored.
        first_without_task: number of the first prompt without a task; 0 if there is none.
    """

    rows: int = 0
    format: str = ""
    earlier_answers: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    first_without_task: int = 0

    def text(self) -> str:
        """Describe the file in a single line."""
        parts = [f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}, {self.format}"]
        if self.earlier_answers:
            parts.append(
                "the last answer of each row is learned, the earlier answers "
                f"({self.earlier_answers:,}) are context"
            )
        if self.ignored:
            fields = (f"{name} ({count:,})" for name, count in self.ignored.items())
            parts.append(f"ignored fields (rows): {', '.join(fields)}")
        return "; ".join(parts)


def read_sft(path: Path, allow_extra_fields: bool = False) -> list[SftExample]:
    """Read SFT examples; our own row is {"messages", "response", "weight" = 1}.

    The arguments of all readers:

    Args:
        path: file of a format in docs/training.md.
        allow_extra_fields: ignore unknown fields of rows.

    Raises:
        ExampleError: a row is invalid, or has an unknown field; names the first and counts others.
    """
    return list(_examples(path, SFT, _sft, allow_extra_fields, DataSummary()))


def read_pairs(path: Path, allow_extra_fields: bool = False) -> list[PairExample]:
    """Read preference pairs.

    Our own row: {"messages", "chosen", "rejected", "prompt_id" = hash of the messages,
    "margin" = 0, "tie" = false, "weight" = 1, "source" = ""}.
    """
    return list(_examples(path, PAIRS, _pair, allow_extra_fields, DataSummary()))


def read_thumbs(path: Path, allow_extra_fields: bool = False) -> list[ThumbExample]:
    """Read rated responses.

    Our own row: {"messages", "response", "thumb": "up" or "down", "prompt_id" = hash of the
    messages, "served" = {"version", "token_ids", "log_probs", …}}.
    """
    return list(_examples(path, THUMBS, _thumb, allow_extra_fields, DataSummary()))


def read_prompts(path: Path, allow_extra_fields: bool = False) -> list[PromptExample]:
    """Read prompts; our own row is {"messages", "task" = ""}."""
    return list(_examples(path, PROMPTS, _prompt, allow_extra_fields, DataSummary()))


def read_texts(path: Path) -> list[str]:
    """Read the field `text` of each row; other fields are ignored."""
    collected = _Errors(path)
    texts = list(collected.parsed(lambda number, row: text_in(row, "text")))
    collected.check(len(texts))
    return texts


def summarise(path: Path, kind: RowKind, allow_extra_fields: bool = False) -> DataSummary:
    """Check all rows of a file without keeping them.

    Raises:
        ExampleError: as the readers.
    """
    summary, parse = DataSummary(), PARSERS[kind.readers]
    for example in _examples(path, kind, parse, allow_extra_fields, summary):
        if isinstance(example, PromptExample) and not example.task:
            summary.first_without_task = summary.first_without_task or summary.rows
    return summary


def _examples(
    path: Path,
    kind: RowKind,
    parse_own: Callable[[Row], Example],
    allow_extra_fields: bool,
    summary: DataSummary,
) -> Iterator[Example]:
    """Yield the valid examples and complete the summary; raise at the end for the others."""
    rows = FileFormat(kind)

    def parse(number: int, row: Row) -> Example:
        own = rows.convert(number, row)
        example = parse_own(own)
        if rows.found is not None and rows.found.is_conversation:
            roles = Counter(message["role"] for message in own["messages"])
            summary.earlier_answers += roles["assistant"]
        return example

    collected = _Errors(path)
    for example in collected.parsed(parse):
        summary.rows += 1
        yield example
    collected.check(summary.rows)
    if rows.unknown and not allow_extra_fields:
        raise rows.unknown_fields_error(path, summary.rows)
    summary.format = rows.found.name if rows.found else ""
    summary.ignored = dict(rows.unknown)


class _Errors:
    """Errors of the rows of a file: the first one, and the number of others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: ExampleError | None = None
        self._more = 0

    def parsed(self, parse: Callable[[int, Row], Example]) -> Iterator[Example]:
        """Yield what `parse` makes of each row by its number."""
        for number, row in read_objects(self._path):
            try:
                if isinstance(row, ExampleError):
                    raise row
                yield parse(number, row)
            except ExampleError as error:
                if self._first is not None:
                    self._more += 1
                    continue
                self._first = ExampleError(
                    f"{self._path.name} row {number}: {error}",
                    field=f"{self._path.name}:{number}:{error.field}".removesuffix(":"),
                    reason=error.reason,
                    limit=error.limit,
                )

    def check(self, rows: int) -> None:
        """Raise the first error, or one for a file without rows."""
        if first := self._first:
            more = f" (and {self._more} more {'rows' if self._more > 1 else 'row'})"
            raise ExampleError(
                first.text + (more if self._more else ""),
                field=first.field,
                reason=first.reason,
                limit=first.limit,
            )
        if not rows:
            raise ExampleError(
                f"{self._path.name}: no examples", field=self._path.name, reason="EMPTY"
            )


# Our own rows.


def _sft(row: Row) -> SftExample:
    return SftExample(_messages(row), text_in(row, "response"), number_in(row, "weight", 1.0))


def _pair(row: Row) -> PairExample:
    messages = _messages(row)
    chosen, rejected = text_in(row, "chosen"), text_in(row, "rejected")
    margin, tie = number_in(row, "margin", 0.0), flag_in(row, "tie", False)
    if tie and margin:
        raise ExampleError(
            f"margin: a tie has none, not {margin:g}", field="margin", reason="CONFLICT"
        )
    return PairExample(
        messages,
        chosen,
        rejected,
        _prompt_id(row, messages),
        margin,
        tie,
        number_in(row, "weight", 1.0),
        text_in(row, "source") if row.get("source") else "",
    )


def _thumb(row: Row) -> ThumbExample:
    thumb = row["thumb"]
    if thumb not in THUMBS_UP_DOWN:
        known = ", ".join(THUMBS_UP_DOWN)
        raise ExampleError(
            f"thumb: must be one of {known}", field="thumb", reason="UNKNOWN", limit=known
        )
    messages = _messages(row)
    response, up = text_in(row, "response"), thumb == "up"
    return ThumbExample(messages, response, up, _prompt_id(row, messages), _served(row))


def _prompt(row: Row) -> PromptExample:
    return PromptExample(_messages(row), text_in(row, "task") if "task" in row else "")


def _messages(row: Row) -> tuple[Message, ...]:
    messages = messages_in(row, "messages")
    check_context(messages, "messages")
    return tuple(Message(**message) for message in messages)


def _prompt_id(row: Row, messages: tuple[Message, ...]) -> str:
    """Return the identifier of the prompt; by default equal prompts share one."""
    return text_in(row, "prompt_id") if "prompt_id" in row else prompt_key(messages)


def _served(row: Row) -> Served | None:
    try:
        return served_from(row["served"]) if "served" in row else None
    except SampleError as error:
        field = f"served.{error.field}".removesuffix(".")
        raise ExampleError(
            f"served: {error}", field=field, reason=error.reason, limit=error.limit
        ) from error
    except (ValueError, TypeError) as error:
        raise ExampleError(f"served: {error}", field="served", reason="MALFORMED") from error


# By the commands that read the rows.
PARSERS: Mapping[tuple[str, ...], Callable[[Row], object]] = {
    SFT.readers: _sft,
    PAIRS.readers: _pair,
    THUMBS.readers: _thumb,
    PROMPTS.readers: _prompt,
}
