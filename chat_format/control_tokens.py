"""Control tokens in the text of messages: found, made plain text, and restored in answers.

A tokenizer turns the text of a control token, such as `<end_of_turn>`, into its id wherever that
text stands. A message with it could therefore end its turn and begin another one. The rule: a space
after the first character of each control token, until none is left. Applied twice it changes
nothing more, so the generator and a model server may both apply it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from chat_format.errors import ChatFormatError

# Control tokens may overlap and nest, so one pass may leave others. Real lists need two passes.
MAX_PASSES = 32
# Limits of what is restored in an answer: a longer or a further control token stays disarmed.
MAX_RESTORED_CHARACTERS, MAX_RESTORED = 256, 64
_TEXT_ID = 0
_SPACES = " ▁"  # SentencePiece writes a space as U+2581
_LIMIT = "at least two characters, which a space between them keeps apart"

# Control tokens of Gemma 3, Llama 3, ChatML with Qwen, and GPT-2, from their tokenizer.json: for a
# version without readable files.
FAMILY_TOKENS = (
    *("<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|step_id|>", "<|image|>"),
    "<|finetune_right_pad_id|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(256)),
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)


@dataclass(frozen=True)
class Disarmed:
    """Text without control tokens.

    Args:
        text: the text with the inserted spaces.
        originals: for each changed part, as written in `text`, the part of the original text.
    """

    text: str
    originals: Mapping[str, str] = field(default_factory=dict)


class ControlTokens:
    """Control tokens of one tokenizer.

    They are looked for in the text and in the normalised text, whatever the flags of the tokens
    say: `normalized` tokens match after the normaliser, which may fold look-alikes, and a
    vocabulary may contain the others as ordinary pieces. `lstrip`, `rstrip` and `single_word`
    depend on the text around a message, so they are ignored.

    Args:
        texts: texts of the control tokens.
        normalizer: the field of tokenizer.json.
        markup: texts of other added tokens, such as `<think>`; they stay as they are.

    Raises:
        ChatFormatError: a space does not make a control token plain text; reason UNSUPPORTED.
    """

    def __init__(
        self,
        texts: Collection[str],
        normalizer: Mapping[str, Any] | None = None,
        markup: Collection[str] = (),
    ) -> None:
        self.texts = tuple(sorted({text for text in texts if text}))
        self.markup = tuple(sorted(set(markup) - set(self.texts)))
        normalizers = [None] if normalizer is None else [None, normalizer]
        self._scanners = [_scanner(self.texts, item) for item in normalizers] if self.texts else []
        for text in self.texts:
            try:
                self.disarm(text)
            except ChatFormatError as error:
                raise ChatFormatError(
                    f"tokenizer.json: the control token {text!r} in the text of a message cannot "
                    f"be told from a real one; a control token has {_LIMIT}",
                    field="added_tokens",
                    reason="UNSUPPORTED",
                    limit=_LIMIT,
                ) from error

    @classmethod
    def from_directory(cls, directory: Path) -> ControlTokens:
        """Read the control tokens of a model directory. Blocking.

        Raises:
            ChatFormatError: tokenizer.json is missing, cannot be read (for example by its
                permissions) or is malformed, or see the class.
        """
        name = "tokenizer.json"
        try:
            found = _members((directory / name).read_text(), ("added_tokens", "normalizer"))
            added = found.get("added_tokens") or []
            # Other added tokens may be white space or single signs.
            markup = {token["content"] for token in added if len(token["content"].strip()) > 1}
            texts = {token["content"] for token in added if token["special"]}
            name = "tokenizer_config.json"
            path = directory / name
            config = json.loads(path.read_bytes()) if path.is_file() else {}
            # transformers, and so vLLM, adds these tokens to those of tokenizer.json.
            texts |= _configured_texts(config)
        except FileNotFoundError as error:
            raise ChatFormatError(f"{name} is missing", field=name, reason="MISSING") from error
        except OSError as error:
            raise ChatFormatError(
                f"{name} cannot be read ({error.strerror})", field=name, reason="UNREADABLE"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ChatFormatError(
                f"{name} has no readable list of added tokens", field=name, reason="MALFORMED"
            ) from error
        return cls(texts, found.get("normalizer"), markup)

    @classmethod
    def from_configuration(cls, config: Mapping[str, Any] | None = None) -> ControlTokens:
        """Return the control tokens of a model without files.

        Args:
            config: content of tokenizer_config.json, as vLLM's /tokenizer_info returns it; without
                a list of tokens those of the supported families count.
        """
        try:
            texts = _configured_texts(config or {})
        except (KeyError, TypeError, AttributeError):
            texts = set()
        # The normaliser is unknown; this one folds most look-alikes.
        return cls(texts or FAMILY_TOKENS, {"type": "NFKC"})

    def disarm(self, text: str) -> Disarmed:
        """Return the text with all control tokens made plain text.

        Raises:
            ChatFormatError: control tokens remain; the text must not reach a model.
        """
        if not self._spans(text):
            return Disarmed(text)
        pieces = list(text)  # one for each character, each with the spaces inserted into it
        regions: list[tuple[int, int]] = []
        for _ in range(MAX_PASSES):
            current = "".join(pieces)
            spans = self._spans(current)
            if not spans:
                return Disarmed(current, _originals(text, pieces, regions))
            starts = list(accumulate(map(len, pieces), initial=0))
            # From the end, so that the offsets of the other spans in a piece stay valid.
            for start, end in reversed(spans):
                regions.append((bisect_right(starts, start) - 1, bisect_right(starts, end - 1)))
                # A normaliser may put a space before its text, which a further space repeats.
                while end - start > 1 and current[start] in _SPACES:
                    start += 1
                number = bisect_right(starts, start) - 1
                at, piece = start - starts[number], pieces[number]
                head = piece[at]
                if end - start == 1:
                    # A single character whose normal form is the whole control token.
                    head = self._normal_form(head)
                    if len(head) < 2:
                        continue
                    head = f"{head[0]} {head[1:]}"
                else:
                    head += " "
                pieces[number] = piece[:at] + head + piece[at + 1 :]
        raise ChatFormatError(
            "a message contains a control token of the model that cannot be made plain text",
            field="messages",
            reason="CONTROL_TOKENS",
        )

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return the places of control tokens as character offsets, each character at most once."""
        found: list[tuple[int, int]] = []
        for scanner in self._scanners:
            encoding = scanner.encode(text, add_special_tokens=False)
            found += [
                span
                for token, span in zip(encoding.ids, encoding.offsets, strict=True)
                if token != _TEXT_ID
            ]
        apart: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if not apart or start >= apart[-1][1]:
                apart.append((start, end))
        return apart

    def _normal_form(self, character: str) -> str:
        normalizer = self._scanners[-1].normalizer
        return character if normalizer is None else str(normalizer.normalize_str(character))


class AnswerRestorer:
    """Restores the original texts of disarmed control tokens in a growing answer.

    Text that may be the start of a disarmed control token is held back until the next text decides.
    """

    def __init__(self, originals: Mapping[str, str]) -> None:
        self._originals = dict(originals)
        self._forms = sorted(self._originals, key=len, reverse=True)
        # Without forms a pattern that matches nothing.
        self._pattern = re.compile("|".join(map(re.escape, self._forms)) or r"(?!)")
        self._longest = max(map(len, self._forms), default=1) - 1
        self._held = ""

    def feed(self, text: str) -> str:
        """Add text and return the part that cannot change any more."""
        self._held += text
        done, position = [], 0
        for match in self._pattern.finditer(self._held):
            done += [self._held[position : match.start()], self._originals[match[0]]]
            position = match.end()
        rest = self._held[position:]
        length = next(
            (
                length
                for length in range(min(self._longest, len(rest)), 0, -1)
                if any(form.startswith(rest[-length:]) for form in self._forms)
            ),
            0,
        )
        self._held = rest[len(rest) - length :]
        return "".join([*done, rest[: len(rest) - length]])

    def flush(self) -> str:
        """Return the text held back at the end of the answer."""
        held, self._held = self._held, ""
        return held


def merge_originals(disarmed: Sequence[Disarmed]) -> dict[str, str]:
    """Return the changed parts of a conversation that are restored in its answer."""
    found: dict[str, str] = {}
    for item in disarmed:
        found |= item.originals
    return dict(list(found.items())[-MAX_RESTORED:])


def _configured_texts(config: Mapping[str, Any]) -> set[str]:
    entries = (config.get("added_tokens_decoder") or {}).values()
    return {token["content"] for token in entries if token.get("special")}


def _originals(
    text: str, pieces: Sequence[str], regions: Sequence[tuple[int, int]]
) -> dict[str, str]:
    """Return the changed parts; overlapping ones count as one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(regions):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    changed = {"".join(pieces[first:last]): text[first:last] for first, last in merged}
    return {form: part for form, part in changed.items() if len(form) <= MAX_RESTORED_CHARACTERS}


def _scanner(texts: Sequence[str], normalizer: Mapping[str, Any] | None) -> Tokenizer:
    """Return a tokenizer whose only tokens are the control tokens and `_TEXT_ID` for other text."""
    added = [
        {
            "id": number,
            "content": text,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": normalizer is not None,
        }
        for number, text in enumerate(texts, _TEXT_ID + 1)
    ]
    other = "\0other"
    model = {"type": "WordLevel", "vocab": {other: _TEXT_ID}, "unk_token": other}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "model": model,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
    }
    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare Exception
        raise ChatFormatError(
            "tokenizer.json: the normalizer is unsupported", field="normalizer", reason="MALFORMED"
        ) from error


def _members(text: str, names: Collection[str]) -> dict[str, Any]:
    """Return members of the JSON object `text`.

    Reading ends with the last of them: a vocabulary behind has up to 33 MB and half a second.
    """
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    position = _skip(text, 0, "{")
    while set(names) - found.keys():
        key, position = decoder.raw_decode(text, _skip(text, position))
        found[key], position = decoder.raw_decode(text, _skip(text, position, ":"))
        position = _skip(text, position)
        if text[position : position + 1] != ",":
            _skip(text, position, "}")
            break
        position += 1
    return found


def _skip(text: str, position: int, expected: str = "") -> int:
    """Return the position after white space, the expected character, and white space."""
    match = re.compile(rf"\s*{re.escape(expected)}\s*").match(text, position)
    if match is None:
        raise ValueError(f"expected {expected!r}")
    return match.end()
