"""The chat template of a model, rendered in jinja2's sandbox.

The template is part of the model and therefore not trusted.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.predictor.errors import InvalidRequestError, ModelRefusedError

Message = Mapping[str, str]


class ChatTemplate:
    """Renders messages to the prompt format of a model.

    A model without a template cannot chat.
    """

    def __init__(
        self,
        source: str | None,
        special_tokens: Mapping[str, str],
        control_tokens: Sequence[str] = (),
    ) -> None:
        self.special_tokens = dict(special_tokens)
        self.source = source
        self._control_tokens = control_tokens
        try:
            self._template = _environment().from_string(source) if source else None
        except jinja2.TemplateError as error:
            raise ModelRefusedError(
                "tokenizer_config.json: chat_template is not a jinja2 template",
                field="chat_template",
                reason="MALFORMED",
            ) from error

    @classmethod
    def from_directory(cls, directory: Path, control_tokens: Sequence[str]) -> "ChatTemplate":
        """Read tokenizer_config.json, and chat_template.jinja of newer transformers versions."""
        try:
            config: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_bytes())
        except ValueError as error:
            raise ModelRefusedError(
                "tokenizer_config.json is not JSON",
                field="tokenizer_config.json",
                reason="MALFORMED",
            ) from error
        template_file = directory / "chat_template.jinja"
        source: Any = config.get("chat_template")
        if template_file.is_file():
            source = template_file.read_text()
        elif isinstance(source, list):
            # A list of named templates; the name "default" marks that of chats.
            default = (entry.get("template") for entry in source if entry.get("name") == "default")
            source = next(default, None)
        return cls(
            source if isinstance(source, str) else None, special_tokens(config), control_tokens
        )

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Return the text of the prompt with special tokens written out.

        Raises:
            InvalidRequestError: there is no template, or the template refuses these messages.
        """
        if self._template is None:
            raise InvalidRequestError(
                "messages: this model has no chat template; use /v1/completions",
                "messages",
                reason="UNSUPPORTED",
            )
        try:
            escaped = []
            for message in messages:
                text = message["content"]
                for token in self._control_tokens:
                    # A space after the first character turns a turn marker inside a message into
                    # plain text, which cannot start a turn.
                    text = text.replace(token, f"{token[0]} {token[1:]}")
                escaped.append({**message, "content": text})
            return self._template.render(
                messages=escaped,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except _TemplateRejectionError as error:
            raise InvalidRequestError(
                f"messages: the model's chat template says: {error}", "messages", reason="REFUSED"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                "messages: the model's chat template cannot render them",
                "messages",
                reason="MALFORMED",
            ) from error


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return bos_token, eos_token, unk_token and pad_token.

    Each is a string, or an object with the field `content`.
    """
    found = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            found[key] = content
    return found


class _TemplateRejectionError(Exception):
    """The template called raise_exception; the text is the template author's."""


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that Hugging Face templates expect (chat_template_utils)."""

    def raise_exception(text: str) -> NoReturn:
        raise _TemplateRejectionError(text)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now(UTC).strftime(pattern)
    return environment
