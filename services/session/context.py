"""The context of a turn: all system messages and the newest messages that fit the token budget.

Turns without an answer and turns with a blocked input are left out: "do it anyway" must not carry a
refused request to the model. Consecutive messages of one role are merged, and the first message
after the system message is a user's, because the chat template of Gemma refuses anything else.

Tokens are counted with the tokenizer of the model. Loading the tokenizer takes seconds, and
therefore happens in a thread before the service serves. For a model without a known tokenizer the
bytes are counted: no byte-level tokenizer, and none with byte fallback, makes more tokens of a
text, so that a context never exceeds the window.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from services.chassis.errors import DetailedError
from services.contracts.chat import FinishReason, Role
from services.contracts.limits import MAX_TEXT_CHARACTERS, ContextLengthError
from services.session.message import Message
from services.session.tree import Branch

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Budget:
    """Token budget of a context.

    `tokens` is the maximum of the whole context, `overhead_tokens` the part of the chat template in
    each message.
    """

    tokens: int
    overhead_tokens: int

    def cost(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of messages, chat template included."""
        return sum(message.tokens + self.overhead_tokens for message in messages)


@dataclass(frozen=True)
class Selection:
    """Messages of a context: system messages first, then oldest first, with their tokens.

    `dropped` is 0 if all messages fit, and otherwise the number of messages before the oldest.
    """

    messages: tuple[Message, ...]
    tokens: int
    dropped: int


def select_context(branch: Branch, budget: Budget, fields: Mapping[str, str]) -> Selection:
    """Select the context from a branch that ends with a user message.

    The branch is read only as far as the context reaches.

    Args:
        fields: fields of the request by the id of the message that they bring.

    Raises:
        ContextLengthError: the last message and the system messages do not fit together; names the
            longest of them. Its limit is what the others leave.
    """
    system = [message for message in branch.pinned if message.role is Role.SYSTEM]
    required = [*branch.newest[-1:], *system]
    excess = budget.cost(required) - budget.tokens
    if excess > 0:
        longest = max(required, key=lambda message: message.tokens)
        # Without a field the message was stored by an earlier request.
        field = fields.get(longest.id, "conversation_id")
        actual, limit = f"{longest.tokens} tokens", f"{max(0, longest.tokens - excess)} tokens"
        others = " and the other required messages" if len(required) > 1 else ""
        raise ContextLengthError(
            f"{ContextLengthError.TEXT}: the {longest.role} message ({field}) has {actual}; "
            f"at most {limit} fit beside the answer{others}",
            field=field,
            limit=limit,
            actual=actual,
        )
    room = budget.tokens - budget.cost(system)
    chosen, all_fit = _fitting(_answered(branch.newest_first()), room, budget)
    above = chosen[0].depth - sum(message.position < chosen[0].position for message in system)
    messages = (*system, *chosen)
    return Selection(messages, budget.cost(messages), 0 if all_fit else above)


def merge_roles(messages: Sequence[Message]) -> list[Message]:
    """Return the messages for the model; consecutive messages of one role become one message."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role is message.role:
            text = merged[-1].text + SEPARATOR + message.text
            merged[-1] = replace(merged[-1], text=text)
        else:
            merged.append(message)
    return merged


def _answered(newest_first: Iterable[Message]) -> Iterator[Message]:
    """Yield messages without system messages, unanswered turns and turns with a blocked input."""
    skipped_question = ""
    for message in newest_first:
        if message.role is Role.ASSISTANT and (
            not message.text or message.finish_reason is FinishReason.INPUT_BLOCKED
        ):
            skipped_question = message.parent_id
        elif message.text and message.role is not Role.SYSTEM and message.id != skipped_question:
            yield message


def _fitting(messages: Iterable[Message], room: int, budget: Budget) -> tuple[list[Message], bool]:
    """Select from messages, newest first, while they fit.

    Returns the selection, oldest first, and True if all messages fit.
    """
    chosen: list[Message] = []
    all_fit = True
    # A run of messages with one role is merged, and the merged text has the limit of one message.
    run_role, run_characters = Role.SYSTEM, 0
    for message in messages:
        room -= budget.cost([message])
        if message.role is run_role:
            run_characters += len(SEPARATOR) + len(message.text)
        else:
            run_role, run_characters = message.role, len(message.text)
        if room < 0 or run_characters > MAX_TEXT_CHARACTERS:
            all_fit = False
            break
        chosen.append(message)
    # The oldest message must be a user's: the chat template of Gemma refuses an answer there.
    while chosen[-1].role is Role.ASSISTANT:
        chosen.pop()
    return chosen[::-1], all_fit


# Longer texts are counted in a thread, because a count takes more than about a millisecond
# (measured: 2.2 ms for 1,000 tokens).
INLINE_CHARACTERS = 2_000


class TokenizerMissingError(DetailedError):
    """The tokenizer file is missing or malformed; `field` is the file."""

    reason = "MISSING"


class TokenCounter(Protocol):
    """Counter of the tokens of texts, without the chat template."""

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""


class ByteCounter:
    """Bound on the tokens of any byte-level tokenizer: the bytes of a text in UTF-8."""

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of bytes of each text."""
        return [len(text.encode()) for text in texts]


class TokenizerCounter:
    """Counter with the tokenizer of the model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._count(texts)
        return await asyncio.to_thread(self._count, texts)

    def _count(self, texts: Sequence[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]


async def load_counter(tokenizer_file: Path | None) -> TokenCounter:
    """Read tokenizer.json in a thread; None counts bytes.

    Raises:
        TokenizerMissingError: the file is missing or malformed.
    """
    if tokenizer_file is None:
        return ByteCounter()
    return TokenizerCounter(await asyncio.to_thread(_read, tokenizer_file))


def _read(tokenizer_file: Path) -> Tokenizer:
    if not tokenizer_file.is_file():
        raise TokenizerMissingError(
            f"{tokenizer_file} is missing: TW_SESSION_TOKENIZER_FILE must name the tokenizer.json "
            "of the model that answers; `make up` installs the small model with its tokenizer",
            field=str(tokenizer_file),
        )
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerMissingError(
            f"{tokenizer_file} is not a tokenizer.json: {error}",
            field=str(tokenizer_file),
            reason="MALFORMED",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # The texts of control tokens reach the model as plain text, which has more tokens.
    tokenizer.encode_special_tokens = True
    return tokenizer
