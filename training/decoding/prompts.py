"""Prompts of `generate` and `chat`: messages in the chat template, or a text to continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from chat_format.control_tokens import ControlTokens
from chat_format.errors import ChatFormatError
from training.artifacts.manifest import ManifestError, read_manifest
from training.data.chat import (
    ChatError,
    Message,
    chat_error,
    load_chat,
    open_tokenizer,
    read_stop_ids,
)
from training.data.token_shards import SHARDS_HASH


class Prompts(Protocol):
    """Conversion of messages to the ids of a prompt, and of ids to text (`data.chat.Chat`)."""

    stop_ids: tuple[int, ...]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class PlainText:
    """Texts to continue, without a chat template: the prompt is the text of the last message.

    The text of a model pre-trained here begins with the start token of documents.

    Args:
        with_control_tokens: read the text of a control token in the prompt as the token; without,
            the text is made plain as in a chat.

    Raises:
        ChatError: the directory has no usable tokenizer or no end token.
    """

    def __init__(self, directory: Path, with_control_tokens: bool) -> None:
        self._tokenizer, settings = open_tokenizer(directory)
        self.stop_ids = tuple(read_stop_ids(directory, self._tokenizer, settings))
        self._control_tokens: ControlTokens | None = None
        if not with_control_tokens:
            try:
                self._control_tokens = ControlTokens.from_directory(directory)
            except ChatFormatError as error:
                raise chat_error(error) from error
        begin = settings.get("bos_token") if is_pretrained(directory) else None
        begin_id = self._tokenizer.token_to_id(begin) if isinstance(begin, str) else None
        self._begin_ids = [] if begin_id is None else [begin_id]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the last message."""
        text = messages[-1].content
        if self._control_tokens is not None:
            try:
                text = self._control_tokens.disarm(text).text
            except ChatFormatError as error:
                raise chat_error(error) from error
        return [*self._begin_ids, *self._tokenizer.encode(text).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids without control tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def open_prompts(directory: Path, is_plain: bool | None) -> tuple[Prompts, str]:
    """Return the prompts of a chat with a model, and why the model only continues texts, or "".

    Args:
        is_plain: None continues texts if the model has no chat template, or never saw its own in
            pre-training alone.

    Raises:
        ChatError: the directory has no usable tokenizer, template or end token.
    """
    if is_plain or (is_plain is None and is_pretrained(directory)):
        reason = "--plain" if is_plain else "it is pre-trained on texts only"
        return PlainText(directory, with_control_tokens=False), reason
    try:
        return load_chat(directory), ""
    except ChatError as error:
        if is_plain is None and (error.field, error.reason) == ("chat_template", "MISSING"):
            return PlainText(directory, with_control_tokens=False), "it has no chat template"
        raise


def is_pretrained(directory: Path) -> bool:
    """Return True for a model pre-trained here without later fine-tuning."""
    try:
        return SHARDS_HASH in (read_manifest(directory).data or {})
    except ManifestError:
        return False
