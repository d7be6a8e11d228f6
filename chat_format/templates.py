"""Chat templates: messages to the text of a prompt.

A template may arrange messages, but neither drop, repeat, reorder nor change them. Each prompt is
therefore compared with the prompt of placeholders under the same roles.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from chat_format.control_tokens import ControlTokens
from chat_format.errors import ChatFormatError
from chat_format.sandbox import FIELD, TemplateEnvironment, TemplateRefusalError, budget

Message = Mapping[str, str]

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
# Conversations that a template must render, unless it refuses them by raise_exception.
CHECKED_ROLES = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
CHECKED_TEXTS = ("hello", "Two lines.\n\n    x = {'a': 1}\n", "Résumé 42 % — 你好, صباح الخير!")


class ChatTemplate:
    """The chat template of a model.

    Args:
        source: Jinja source.
        names: texts of the tokens in `NAMES` that exist.
        control_tokens: made plain text in each message.
        markup: texts to which the template may react: added tokens that are no control tokens,
            such as `<think>`.

    Raises:
        ChatFormatError: the template is malformed, uses something forbidden, exceeds a limit, or
            changes messages.
    """

    def __init__(
        self,
        source: str,
        names: Mapping[str, str],
        control_tokens: ControlTokens,
        markup: Collection[str] = (),
    ) -> None:
        self.source = source
        self.names = dict(names)
        self.control_tokens = control_tokens
        self._markup = tuple(markup)
        self._template = TemplateEnvironment().compile_template(source)
        for roles in CHECKED_ROLES:
            for shift in range(len(CHECKED_TEXTS)):
                texts = [CHECKED_TEXTS[(i + shift) % len(CHECKED_TEXTS)] for i in range(len(roles))]
                messages = [
                    {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
                ]
                try:
                    self.render(messages, add_generation_prompt=True)
                except ChatFormatError as error:
                    if error.reason != "REFUSED":
                        raise

    @classmethod
    def from_directory(cls, directory: Path) -> ChatTemplate | None:
        """Read the chat template of a model directory; None without one. Blocking.

        chat_template.jinja has priority over tokenizer_config.json, as in transformers.

        Raises:
            ChatFormatError: a file is malformed, or see the class.
        """
        config = _read_object(directory / "tokenizer_config.json")
        file, source = directory / "chat_template.jinja", config.get("chat_template")
        try:
            if file.is_file():
                source = file.read_text()
            elif isinstance(source, list):
                # A list of named templates; the name "default" marks that of chats.
                named = {entry["name"]: entry["template"] for entry in source}
                source = named.get("default")
        except (ValueError, KeyError, TypeError) as error:
            raise ChatFormatError(
                "chat_template is malformed", field=FIELD, reason="MALFORMED"
            ) from error
        if not isinstance(source, str):
            return None
        control_tokens = ControlTokens.from_directory(directory)
        return cls(source, token_names(config), control_tokens, control_tokens.markup)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Return the text of the prompt with control tokens written out.

        Args:
            messages: mappings with `role` and `content`; control tokens in `content` become plain
                text.
            add_generation_prompt: end with the start of the assistant's answer.

        Raises:
            ChatFormatError: REFUSED by the template with its text, LIMIT exceeded, MALFORMED or
                FORBIDDEN parts, or CHANGED messages.
        """
        plain = [
            {**message, "content": self.control_tokens.disarm(message["content"]).text}
            for message in messages
        ]
        # Words that no template knows; the number keeps them apart.
        places = [f"thumbwheel message {number} of {len(plain)}." for number in range(len(plain))]
        marked = [
            {**message, "content": place} for message, place in zip(plain, places, strict=True)
        ]
        characters = sum(len(message["content"]) for message in (*plain, *marked))
        variables = {"add_generation_prompt": add_generation_prompt, **self.names}
        try:
            with budget(2 * len(plain), characters):
                frame = self._template.render(messages=marked, **variables)
                text = self._template.render(messages=plain, **variables)
        except TemplateRefusalError as error:
            raise ChatFormatError(
                f"chat_template refuses the messages: {error}", field=FIELD, reason="REFUSED"
            ) from error
        self._check_unchanged(text, plain, _parts(frame, places, plain))
        return text

    def _check_unchanged(
        self, text: str, messages: Sequence[Message], parts: Sequence[str]
    ) -> None:
        position = len(parts[0])
        fits = text.startswith(parts[0])
        for message, after in zip(messages, parts[1:], strict=True):
            content = message["content"]
            # Templates may strip a message.
            forms = (content, content.strip(), content.lstrip(), content.rstrip())
            ends = [
                position + len(form + after)
                for form in forms
                if fits and text.startswith(form + after, position)
            ]
            fits, position = bool(ends), ends[0] if ends else position
        if fits and position == len(text):
            return
        # Templates also leave out blank messages, or give them another form.
        contents = [message["content"] for message in messages]
        if any(not content.strip() for content in contents):
            return
        if any(item in content for item in self._markup for content in contents):
            return
        raise ChatFormatError(
            "chat_template changes messages by their content; it may only arrange them",
            field=FIELD,
            reason="CHANGED",
        )


def token_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokens of `NAMES` in tokenizer_config.json.

    Each is a string, or an object with the field `content`.
    """
    found = {}
    for name in NAMES:
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            found[name] = content
    return found


def _parts(frame: str, places: Sequence[str], messages: Sequence[Message]) -> list[str]:
    """Split the prompt of placeholders at these.

    Raises:
        ChatFormatError: a message is dropped, repeated or out of order, or two messages touch:
            a control token could then be divided between them.
    """
    parts: list[str] = []
    for number, place in enumerate(places):
        before, found, frame = frame.partition(place)
        if not found or place in frame or (number and not before):
            finding = "joins" if found and place not in frame else "drops, repeats or reorders"
            raise ChatFormatError(
                f"chat_template {finding} messages, first number {number + 1} "
                f"({messages[number]['role']})",
                field=FIELD,
                reason="CHANGED",
            )
        parts.append(before)
    return [*parts, frame]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ChatFormatError(
            f"{path.name} is not JSON", field=path.name, reason="MALFORMED"
        ) from error
    if not isinstance(content, dict):
        raise ChatFormatError(f"{path.name} is no object", field=path.name, reason="MALFORMED")
    return content
