"""Formats of rows by kind, each with its conversion to our own rows.

Shapes of TRL: its documentation "Dataset formats and types". A text as prompt becomes one message
of the user. Texts are not changed: a space before a completion stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from training.data.formats.fields import (
    CHAT,
    SHAREGPT,
    ExampleError,
    MessageNames,
    Messages,
    Row,
    check_context,
    flag_in,
    messages_in,
    text_in,
)

# Origin of a row; accepted in each format, without effect except for the `source` of pairs and the
# `prompt_id` of pairs and thumbs.
ORIGIN = ("id", "prompt_id", "source", "licence")
IMPLICIT = "implicit prompt"


def always(row: Row) -> bool:
    return True


@dataclass(frozen=True)
class RowFormat:
    """A shape of rows.

    Attributes:
        name: as printed, unique within a kind.
        required: fields of every row.
        convert: returns the fields of our own row instead of these.
        optional: other fields with an effect, besides those of the kind.
        metadata: fields of well-known data sets without an effect.
        fits: distinguishes formats with the same fields; fields may be missing.
        names: names of the fields of a message.
        is_conversation: the response is the last message of a conversation.
    """

    name: str
    required: tuple[str, ...]
    convert: Callable[[Row], dict[str, Any]]
    optional: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    fits: Callable[[Row], bool] = always
    names: MessageNames = CHAT
    is_conversation: bool = False

    def missing(self, row: Row) -> list[str]:
        """Return the required fields without a value in the row."""
        return [field for field in self.required if field not in row]


@dataclass(frozen=True)
class RowKind:
    """Rows of the same stages.

    Attributes:
        readers: names of their commands.
        optional: fields of our own rows with the same effect in each format.
        formats: ours first; a row has the first fitting one.
    """

    readers: tuple[str, ...]
    optional: tuple[str, ...]
    formats: tuple[RowFormat, ...]

    @property
    def names(self) -> str:
        """Names of all formats in one line."""
        return "; ".join(one.name for one in self.formats)

    def known(self, one: RowFormat) -> tuple[str, ...]:
        """Return all known fields of a row of this format."""
        return (*one.required, *one.optional, *self.optional, *one.metadata, *ORIGIN)


# Conversations.


def split_answer(messages: Messages, field: str) -> tuple[Messages, str]:
    """Return the messages before the last one, and its text.

    Raises:
        ExampleError: the last message is not the assistant's, or empty.
    """
    *before, last = messages
    if last["role"] != "assistant" or not last["content"]:
        raise ExampleError(
            f"{field}: the last message must be the assistant's and not empty",
            field=field,
            reason="EMPTY" if last["role"] == "assistant" else "CONFLICT",
        )
    return before, last["content"]


def _answered(messages: Messages, field: str) -> dict[str, Any]:
    before, response = split_answer(messages, field)
    if not before:
        raise ExampleError(
            f"{field}: no message before the answer",
            field=field,
            reason="EMPTY",
            limit="at least 2",
        )
    return {"messages": _context_of(before, field), "response": response}


def _context_of(messages: Messages, field: str) -> Messages:
    """Return the messages before an answer; the last must not be empty, nor the assistant's."""
    check_context(messages, field)
    if not messages[-1]["content"]:
        raise ExampleError(
            f"{field}: the last message before the answer is empty", field=field, reason="EMPTY"
        )
    return messages


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _system(row: Row) -> Messages:
    """Return the system message of the field `system` as a list; empty without one."""
    if row.get("system", "") == "":
        return []
    return [{"role": "system", "content": text_in(row, "system")}]


def from_messages(row: Row) -> dict[str, Any]:
    return _answered(messages_in(row, "messages"), "messages")


def from_conversations(row: Row) -> dict[str, Any]:
    messages = messages_in(row, "conversations", SHAREGPT)
    return _answered([*_system(row), *messages], "conversations")


def from_columns(
    name: str, prompt: str, context: str, response: str, metadata: tuple[str, ...] = ()
) -> RowFormat:
    """Return the format of a table with these columns.

    Prompt and context are joined with an empty line; the context may be empty.

    Args:
        context: column of the input of an instruction; "" if the table has none.
    """

    def convert(row: Row) -> dict[str, Any]:
        text = text_in(row, prompt)
        if row.get(context, "") != "":
            text = f"{text}\n\n{text_in(row, context)}"
        return {"messages": [*_system(row), *_user(text)], "response": text_in(row, response)}

    optional = (context, "system") if context else ("system",)
    return RowFormat(name, (prompt, response), convert, optional, metadata)


# TRL's prompts and completions.


def _completed(row: Row, *fields: str) -> tuple[Messages, list[str]]:
    """Return the messages before the answers, and the answer in each of these fields.

    A completion is a text, or messages with the answer at the end. The messages before the answer
    follow the prompt or repeat the prompt (an implicit prompt).

    Raises:
        ExampleError: a field is invalid, or the fields have different messages before the answer.
    """
    before: list[Messages] = []
    answers = []
    for field in fields:
        start, answer = (
            split_answer(messages_in(row, field), field)
            if isinstance(row[field], list)
            else ([], text_in(row, field))
        )
        if before and start != before[0]:
            raise ExampleError(
                f"{field}: the messages before the answer are not those of {fields[0]}",
                field=field,
                reason="MISMATCH",
            )
        before.append(start)
        answers.append(answer)
    context = _joined(row, before[0], fields[0])
    return _context_of(context, "prompt" if "prompt" in row else fields[0]), answers


def _joined(row: Row, start: Messages, field: str) -> Messages:
    """Return the messages of the prompt and those at the start of the completions, once each."""
    if "prompt" not in row:
        if not start:
            raise ExampleError(
                f"{field}: no message before the answer",
                field=field,
                reason="EMPTY",
                limit="at least 2",
            )
        return start
    if isinstance(row["prompt"], list):
        prompt = messages_in(row, "prompt")
        return start if start[: len(prompt)] == prompt else prompt + start
    prompt = _user(text_in(row, "prompt"))
    if start and prompt[0] not in start:
        raise ExampleError(
            f"prompt: is not a user's message of {field}", field="prompt", reason="MISMATCH"
        )
    return start or prompt


def from_completion(row: Row) -> dict[str, Any]:
    context, (response,) = _completed(row, "completion")
    return {"messages": context, "response": response}


def from_pair(row: Row) -> dict[str, Any]:
    context, (chosen, rejected) = _completed(row, "chosen", "rejected")
    return {"messages": context, "chosen": chosen, "rejected": rejected}


def from_label(row: Row) -> dict[str, Any]:
    thumb = "up" if flag_in(row, "label") else "down"
    return {**from_completion(row), "thumb": thumb}


def from_prompt(row: Row) -> dict[str, Any]:
    is_list = isinstance(row["prompt"], list)
    messages = messages_in(row, "prompt") if is_list else _user(text_in(row, "prompt"))
    return {"messages": _context_of(messages, "prompt")}


# Tests of shapes.


def _conversational(*fields: str) -> Callable[[Row], bool]:
    """Return a test for a list of messages in one of these fields."""
    return lambda row: any(isinstance(row.get(field), list) for field in fields)


def is_answered(row: Row) -> bool:
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def are_texts(row: Row) -> bool:
    return not isinstance(row.get("chosen"), list) and not isinstance(row.get("rejected"), list)


def _trl(
    fields: Sequence[str], convert: Callable[[Row], dict[str, Any]], metadata: tuple[str, ...] = ()
) -> tuple[RowFormat, RowFormat]:
    """Return TRL's conversational and standard format of these fields."""
    name, required = f"{'/'.join(fields)} (TRL)", tuple(fields)
    texts = [field for field in fields if field != "label"]
    return (
        RowFormat(
            f"conversational {name}", required, convert, (), metadata, _conversational(*texts)
        ),
        RowFormat(name, required, convert, (), metadata),
    )


SCORES = ("score_chosen", "score_rejected")  # of UltraFeedback
FLAN = ("task_source", "task_name", "template_type", "template_idx")

SFT = RowKind(
    ("sft",),
    ("weight",),
    (
        RowFormat("messages/response", ("messages", "response"), dict),
        RowFormat(
            "messages that end with the assistant (OpenAI)",
            ("messages",),
            from_messages,
            metadata=("prompt", "num_turns"),
            fits=is_answered,
            is_conversation=True,
        ),
        *_trl(("prompt", "completion"), from_completion),
        from_columns(
            "instruction/input/output (Alpaca)", "instruction", "input", "output", ("text",)
        ),
        RowFormat(
            "conversations (ShareGPT)",
            ("conversations",),
            from_conversations,
            ("system",),
            ("model",),
            names=SHAREGPT,
            is_conversation=True,
        ),
        from_columns(
            "columns instruction/context/response (Dolly)",
            "instruction",
            "context",
            "response",
            ("category",),
        ),
        from_columns("columns inputs/targets (FLAN)", "inputs", "", "targets", FLAN),
        from_columns("columns prompt/response", "prompt", "", "response"),
        from_columns("columns question/answer", "question", "context", "answer"),
    ),
)
PAIRS = RowKind(
    ("reward-model", "dpo"),
    ("prompt_id", "margin", "tie", "weight", "source"),
    (
        RowFormat(
            "messages/chosen/rejected", ("messages", "chosen", "rejected"), dict, fits=are_texts
        ),
        *_trl(("prompt", "chosen", "rejected"), from_pair, (*SCORES, "messages")),
        RowFormat(
            f"conversational chosen/rejected with an {IMPLICIT} (TRL)",
            ("chosen", "rejected"),
            from_pair,
            metadata=(*SCORES, "messages"),
            fits=_conversational("chosen", "rejected"),
        ),
    ),
)
THUMBS = RowKind(
    ("kto",),
    ("prompt_id", "served"),
    (
        RowFormat("messages/response/thumb", ("messages", "response", "thumb"), dict),
        *_trl(("prompt", "completion", "label"), from_label),
    ),
)
PROMPTS = RowKind(
    ("ppo", "grpo"),
    ("task",),
    (RowFormat("messages", ("messages",), dict), *_trl(("prompt",), from_prompt)),
)
KINDS = (SFT, PAIRS, THUMBS, PROMPTS)


def kind_of(command: str) -> RowKind:
    """Return the kind of rows of a command."""
    return next(kind for kind in KINDS if command in kind.readers)
