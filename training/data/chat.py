"""Conversion of chat messages to token ids with the chat template and tokenizer of a model.

Prompt and response are tokenised separately and never again (token in, token out). Control tokens
spelled out in a response are tokenised as ordinary text, and those in a prompt by the rule of
`chat_format`, which the model server and the generator apply as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from chat_format.errors import ChatFormatError
from chat_format.templates import ChatTemplate
from training.errors import DetailedError, details_of
from training.model.fields import FAMILIES, Fields, ModelConfigError, absent, missing, read_object

# Placeholder reply: the template's text after this marker shows how replies end.
REPLY_PLACEHOLDER = "thumbwheel-end-of-reply"


class ChatError(DetailedError, ValueError):
    """Error for a model directory without a usable chat template, or for refused messages."""

    reason = "INVALID_CHAT"


@dataclass(frozen=True)
class Message:
    """One message of a conversation, with the role system, user or assistant."""

    role: str
    content: str


class Chat:
    """Tokenizer and chat template of one model directory."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, stop_ids: Sequence[int]
    ) -> None:
        self._tokenizer, self._template = tokenizer, template
        added = tokenizer.get_added_tokens_decoder().items()
        self._control_ids = {number for number, token in added if token.special}
        self.stop_ids = tuple(stop_ids)  # each of these ids ends a response
        # The id appended to responses in training: the stop id that the template writes after a
        # reply. For Gemma that is <end_of_turn> rather than <eos>.
        talk = [Message("user", "hello"), Message("assistant", REPLY_PLACEHOLDER)]
        after = self._render(talk, add_generation_prompt=False).rpartition(REPLY_PLACEHOLDER)[2]
        self.end_id = next((i for i in self._encode(after) if i in self.stop_ids), self.stop_ids[0])

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the conversation, rendered up to the start of the assistant's reply."""
        return self._encode(self._render(messages, add_generation_prompt=True))

    def response_ids(self, text: str) -> list[int]:
        """Return the ids of a response, including the end token."""
        self._tokenizer.encode_special_tokens = True  # "<eos>" inside a text is ordinary text
        try:
            ids = self._encode(text)
            if not self._control_ids.isdisjoint(ids):
                # A vocabulary may contain control tokens as ordinary pieces.
                ids = self._encode(self.plain_text(text))
            return [*ids, self.end_id]
        finally:
            self._tokenizer.encode_special_tokens = False

    def plain_text(self, text: str) -> str:
        """Return the text as a prompt contains it, with control tokens made plain text.

        Raises:
            ChatError: control tokens remain.
        """
        try:
            return self._template.control_tokens.disarm(text).text
        except ChatFormatError as error:
            raise chat_error(error) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids without control tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def check_fits(self, vocab_size: int) -> None:
        """Check that every id of texts and template has a row in the embedding.

        Special tokens used by neither may lie beyond the last row: tokenizers of Gemma 3 text
        models have an image token without a row.

        Raises:
            ChatError: an id is out of range; the message names the highest one.
        """
        beyond = {
            i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        }
        written = {*self._tokenizer.get_vocab().values()} - beyond
        highest = max({*written, *self.stop_ids, *self.prompt_ids([Message("user", "hello")])})
        if highest >= vocab_size:
            raise ChatError(
                f"tokenizer.json: id {highest} has no row in an embedding of {vocab_size}"
                " (config.json: vocab_size)",
                field="tokenizer.json",
                reason="OUT_OF_RANGE",
                limit=f"below {vocab_size}",
            )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(rows, add_generation_prompt)
        except ChatFormatError as error:
            raise chat_error(error) from error


def load_chat(directory: Path) -> Chat:
    """Load the tokenizer and template of a model directory.

    Raises:
        ChatError: the directory has no tokenizer, no chat template or no end token, the template
            is unsafe or changes messages, or the model has no embedding rows for some ids.
        ModelConfigError: the model family is unsupported, or config.json gives no vocabulary size.
    """
    tokenizer, settings = open_tokenizer(directory)
    try:
        template = ChatTemplate.from_directory(directory)
    except ChatFormatError as error:
        raise chat_error(error) from error
    if template is None:
        raise ChatError(
            "tokenizer_config.json: chat_template is missing; `thumbwheel models import` gives a "
            "base model one with --chat-template FILE",
            field="chat_template",
            reason="MISSING",
        )
    chat = Chat(tokenizer, template, read_stop_ids(directory, tokenizer, settings))
    if (directory / "config.json").exists():
        fields = Fields(read_object(directory / "config.json"))
        # other families may use another field for the row count
        fields.one_of("model_type", FAMILIES)
        chat.check_fits(fields.count("vocab_size"))
    return chat


def open_tokenizer(directory: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer and the content of tokenizer_config.json ({} if absent).

    Raises:
        ChatError: a file is missing or invalid; the message names the file.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ChatError(missing(path), field=absent(path), reason="MISSING")
    config = directory / "tokenizer_config.json"
    try:
        settings = read_object(config) if config.exists() else {}
        return Tokenizer.from_file(str(path)), settings
    except ModelConfigError as error:
        raise ChatError(str(error), **details_of(error)) from error
    except Exception as error:  # tokenizers raises plain Exception
        raise ChatError(
            f"tokenizer.json: {error}", field="tokenizer.json", reason="MALFORMED"
        ) from error


def read_stop_ids(directory: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> list[int]:
    """Return the ids that end a text.

    The ids come from generation_config.json, else from the eos_token in tokenizer_config.json.

    Raises:
        ChatError: neither file names an end token.
    """
    path = directory / "generation_config.json"
    ids = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    end = _token_text(settings.get("eos_token"))
    if ids is None and end is not None:
        ids = tokenizer.token_to_id(end)
    if ids is None:
        raise ChatError(
            "generation_config.json: eos_token_id is missing,"
            " and tokenizer_config.json has no eos_token",
            field="eos_token_id",
            reason="MISSING",
        )
    return list(ids) if isinstance(ids, list) else [ids]


def _token_text(token: str | dict[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def chat_error(error: ChatFormatError) -> ChatError:
    """Return the error of this module for an error of `chat_format`."""
    return ChatError(error.text, field=error.field, reason=error.reason, limit=error.limit)
