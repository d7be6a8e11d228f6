"""The one place where messages become token ids: the model directory's own chat template and
tokenizer.

A prompt and its response are tokenised apart and never again (token in, token out). Control tokens
that a response spells out are tokenised as ordinary text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from training.errors import DetailedError, details_of
from training.model.fields import FAMILIES, Fields, ModelConfigError, absent, missing, read_object

MARK = (
    "thumbwheel-end-of-reply"  # stands for a reply when we look what the template writes after one
)


class ChatError(DetailedError, ValueError):
    """The directory cannot render a chat, or the template refused the messages; the text names the
    file or the reason.
    """

    reason = "INVALID_CHAT"


@dataclass(frozen=True)
class Message:
    """One message of a conversation. role: system, user or assistant."""

    role: str
    content: str


class Chat:
    """Tokenizer and template of one model directory."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        names: dict[str, str],
        stop_ids: Sequence[int],
    ) -> None:
        self._tokenizer, self._template, self._names = tokenizer, template, names
        special = (t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)
        self._control_tokens = sorted(special, key=len, reverse=True)
        self.stop_ids = tuple(stop_ids)  # any of them ends a response
        self.end_id = self._find_end_id()  # the one that a trained response ends with

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The conversation, rendered up to where the assistant begins."""
        return self._encode(self._render(messages, add_generation_prompt=True))

    def response_ids(self, text: str) -> list[int]:
        """A response and the token that ends it."""
        self._tokenizer.encode_special_tokens = True  # "<eos>" in a text is text
        try:
            return [*self._encode(text), self.end_id]
        finally:
            self._tokenizer.encode_special_tokens = False

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without control tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def check_fits(self, vocab_size: int) -> None:
        """Every id that texts and template can give must have a row in the embedding. Special
        tokens that neither writes may lie
        beyond: Gemma 3's text models have a tokenizer with an image token, and no row for it.

        Raises:
            ChatError: names the highest id.
        """
        beyond = {
            i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        }
        written = {*self._tokenizer.get_vocab().values()} - beyond
        highest = max({*written, *self.stop_ids, *self.prompt_ids([Message("user", "hello")])})
        if highest >= vocab_size:
            raise ChatError(
                f"tokenizer.json: id {highest} has no row in an embedding of {vocab_size} (config.json: vocab_size)",
                field="tokenizer.json",
                reason="OUT_OF_RANGE",
                limit=f"below {vocab_size}",
            )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        rows = [
            {"role": message.role, "content": self._disarm(message.content)} for message in messages
        ]
        try:
            return self._template.render(
                messages=rows, add_generation_prompt=add_generation_prompt, **self._names
            )
        except TemplateError as error:
            raise ChatError(f"chat_template: {error}", field="chat_template") from error

    def _disarm(self, text: str) -> str:
        """A turn marker inside a message must not begin a turn; the model server writes it the same
        way.
        """
        for token in self._control_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _find_end_id(self) -> int:
        """What the template itself writes after a reply, if it is a stop id: <end_of_turn> rather
        than <eos> for Gemma.
        """
        talk = [Message("user", "hello"), Message("assistant", MARK)]
        after = self._render(talk, add_generation_prompt=False).rpartition(MARK)[2]
        return next((i for i in self._encode(after) if i in self.stop_ids), self.stop_ids[0])


def load_chat(directory: Path) -> Chat:
    """Chat of a model directory.

    Raises:
        ChatError: no tokenizer, no chat template, no token that ends a response, or ids that the
            model beside it has no embedding for.
        ModelConfigError: the model beside it is of a family that we do not build, or does not say
            how many rows it has.
    """
    tokenizer, settings = open_tokenizer(directory)
    tokens = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token")}
    names = {name: token for name, token in tokens.items() if token is not None}
    chat = Chat(
        tokenizer,
        _template(directory, settings),
        names,
        read_stop_ids(directory, tokenizer, settings),
    )
    if (directory / "config.json").exists():
        fields = Fields(read_object(directory / "config.json"))
        fields.one_of("model_type", FAMILIES)  # another's rows may be counted by another field
        chat.check_fits(fields.count("vocab_size"))
    return chat


def _template(directory: Path, settings: dict[str, Any]) -> Template:
    source = settings.get("chat_template")
    if source is None and (directory / "chat_template.jinja").exists():
        source = (directory / "chat_template.jinja").read_text()
    if not isinstance(source, str):
        raise ChatError(
            "tokenizer_config.json: chat_template is missing",
            field="chat_template",
            reason="MISSING",
        )
    environment = ImmutableSandboxedEnvironment(  # the result is token ids, never HTML
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


def open_tokenizer(directory: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """tokenizer.json, and tokenizer_config.json where there is one.

    Raises:
        ChatError: a file is missing or broken; names it.
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
    except Exception as error:  # tokenizers raises nothing narrower
        raise ChatError(
            f"tokenizer.json: {error}", field="tokenizer.json", reason="MALFORMED"
        ) from error


def read_stop_ids(directory: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> list[int]:
    """Any of these ends a text: what generation_config.json says, else the end token that
    tokenizer_config.json names.

    Raises:
        ChatError: neither says anything.
    """
    path = directory / "generation_config.json"
    ids = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    end = _content(settings.get("eos_token"))
    if ids is None and end is not None:
        ids = tokenizer.token_to_id(end)
    if ids is None:
        raise ChatError(
            "generation_config.json: eos_token_id is missing, and tokenizer_config.json has no eos_token",
            field="eos_token_id",
            reason="MISSING",
        )
    return list(ids) if isinstance(ids, list) else [ids]


def _content(token: str | dict[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)
