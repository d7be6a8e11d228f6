"""Comparison of a server's tokenizer with that of the model directory, by ids of fixed texts.

Training writes the ids beside the tokenizer of each version. A server with other ids would read
other prompts than those that were trained on, and its answers would be trained on under wrong ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from chat_format.control_tokens import ControlTokens
from chat_format.errors import ChatFormatError

FILE = "token_ids.json"
# Each text differs between tokenizers that look alike: a normaliser, digits alone or in groups of
# three, spaces before words or in runs, lines, cases of contractions, and bytes of other scripts.
TEXTS = (
    "Hello, world! It's John’s — “ISN'T IT?” …",
    "  two spaces,   three\tand a tab\n\nnew lines \r\n end ",
    "0 12 345 6789 1234567 3.14159 -1e-9 2026-11-29",
    "def f(x):\n    return {'a': [x ** 2, \"b\"]}  # comment",
    "Größe, naïve café, ﬁne ½ ２ Ⅳ é e\u0301",
    "你好，世界。こんにちは 안녕하세요 สวัสดี",
    "Привет, мир! Γειά σου שלום مرحبا नमस्ते",
    "🙂👩‍👩‍👧 ✓ → ∑ \u200b\u00a0|",
    "https://example.org/a?b=c&d=%20 user@example.org <b>x</b> $x_1$",
)
MAX_CONTROL_TOKENS = 64


def token_ids(directory: Path) -> dict[str, list[int]]:
    """Return the ids of the fixed texts and of the control tokens of a model directory.

    Raises:
        ChatFormatError: tokenizer.json is missing or malformed.
    """
    control = ControlTokens.from_directory(directory).texts[:MAX_CONTROL_TOKENS]
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise ChatFormatError(
            "tokenizer.json cannot be read", field="tokenizer.json", reason="MALFORMED"
        ) from error
    texts = [*TEXTS, *(["".join(control)] if control else [])]
    return {text: tokenizer.encode(text, add_special_tokens=False).ids for text in texts}


def write_token_ids(directory: Path) -> None:
    """Write the ids beside the tokenizer.

    Raises:
        ChatFormatError: as `token_ids`.
    """
    (directory / FILE).write_text(json.dumps(token_ids(directory), indent=0) + "\n")


def read_token_ids(directory: Path) -> dict[str, list[int]] | None:
    """Return the ids beside the tokenizer; None for a directory without them.

    Raises:
        ChatFormatError: the file is malformed.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        return {str(text): [int(number) for number in ids] for text, ids in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ChatFormatError(f"{FILE} is malformed", field=FILE, reason="MALFORMED") from error


def compare_ids(text: str, expected: Sequence[int], found: Sequence[int]) -> None:
    """Compare the ids of one text.

    Raises:
        ChatFormatError: they differ; the text names the first difference.
    """
    if list(expected) == list(found):
        return
    place = next(
        (
            place
            for place, (own, other) in enumerate(zip(expected, found, strict=False))
            if own != other
        ),
        min(len(expected), len(found)),
    )

    def shown(ids: Sequence[int]) -> str:
        return f"id {ids[place]}" if place < len(ids) else "no further id"

    raise ChatFormatError(
        f"tokenizer: token {place + 1} of {text!r} is {shown(found)} at the server and "
        f"{shown(expected)} in the model directory",
        field="tokenizer",
        reason="MISMATCH",
        limit=shown(expected),
    )


def compare_all(expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> None:
    """Compare the ids of all texts; raises as `compare_ids`."""
    for text, ids in expected.items():
        compare_ids(text, ids, found[text])
