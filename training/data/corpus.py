"""Texts as they lie on disk: .jsonl with {"text"} a line; or .txt, of which a file is one text to
pre-train on. Read one text at a time, so the whole may be larger than memory. Nothing is changed:
line ends, spaces and byte order marks are part of a text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.examples import ExampleError

ENDINGS = (".txt", ".jsonl")
TEXTS_HELP = '.txt, .jsonl with {"text"} a line, or folders of them'
LARGEST_TEXT_BYTES = 256 << 20  # of one .txt: it is read as a whole


class TextError(ExampleError):
    """A text cannot be read; the message names the file and the place or the field, never the
    content.

    `field` is the file, "file:line" or "file:line:key" of a .jsonl, or the argument that names the
    files.
    """

    reason = "INVALID_TEXT"


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in folders, in an order that depends on their names alone.

    Raises:
        TextError: a path is neither, or not there, or there is no file at all.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise TextError(f"texts: {path.name} is missing", field=path.name, reason="MISSING")
        inside = (
            [file for file in path.rglob("*") if file.suffix in ENDINGS]
            if path.is_dir()
            else [path]
        )
        found += sorted(inside)
    for file in found:
        if file.suffix not in ENDINGS or not file.is_file():
            raise TextError(
                f"texts: {file.name} is not a .jsonl or .txt file",
                field=file.name,
                reason="UNSUPPORTED",
                limit=", ".join(ENDINGS),
            )
    if not found:
        names = ", ".join(path.name for path in paths)
        raise TextError(
            f"texts: {names}: no .jsonl or .txt file{_others(paths)}",
            field=names,
            reason="EMPTY",
            limit=", ".join(ENDINGS),
        )
    return found


def _others(paths: Sequence[Path]) -> str:
    """What lies in these folders instead."""
    kinds = Counter(file.suffix for path in paths for file in path.rglob("*") if file.is_file())
    if not kinds:
        return ""
    (most, _), *_ = kinds.most_common(1)
    return f" ({kinds.total()} other files, mostly {most or 'without an ending'}: rename or convert them)"


def read_texts_of(file: Path) -> Iterator[str]:
    """Its texts in order.

    Raises:
        TextError: a line is not {"text": str}, or a text is empty; names file and line, never the
            content.
    """
    if file.suffix == ".txt":
        if (size := file.stat().st_size) > LARGEST_TEXT_BYTES:
            raise TextError(
                f"{file.name}: {size} bytes, one text may have {LARGEST_TEXT_BYTES}; make it .jsonl",
                field=file.name,
                reason="TOO_LARGE",
                limit=str(LARGEST_TEXT_BYTES),
            )
        yield _decoded(file.read_bytes(), file.name)
    else:
        yield from (text for text, _ in read_lines(file))


def read_lines(file: Path) -> Iterator[tuple[str, int]]:
    """The text of each line of a .jsonl, and the line's bytes.

    Raises:
        TextError: a line is not {"text": str}, or its text is empty.
    """
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            place, field = f"{file.name} line {number}", f"{file.name}:{number}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise TextError(
                    f"{place}: not UTF-8 at byte {error.start} of the line",
                    field=field,
                    reason="NOT_UTF8",
                ) from error
            except json.JSONDecodeError as error:
                raise TextError(f"{place}: not JSON", field=field, reason="MALFORMED") from error
            text = row.get("text") if isinstance(row, dict) else None
            yield (
                check_unicode(
                    _not_empty(text, place, f"{field}:text"), f"{place}: text", f"{field}:text"
                ),
                len(line),
            )


def check_unicode(text: str, name: str, field: str = "") -> str:
    """The text, if it can be written as UTF-8.

    Args:
        field: of the error, where that is not `name`.

    Raises:
        TextError: it holds half of a surrogate pair, as "\\ud800" in JSON or a broken argument of a
            command gives.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"{name}: half a surrogate pair at character {error.start}, which is no text",
            field=field or name,
            reason="NOT_UTF8",
        ) from error
    return text


def _decoded(data: bytes, place: str) -> str:
    try:
        return _not_empty(data.decode(), place, place)
    except UnicodeDecodeError as error:
        raise TextError(
            f"{place}: not UTF-8 at byte {error.start}", field=place, reason="NOT_UTF8"
        ) from error


def _not_empty(text: object, place: str, field: str) -> str:
    if not isinstance(text, str) or not text:
        reason = "MISSING" if text is None else "EMPTY" if text == "" else "WRONG_TYPE"
        raise TextError(f"{place}: text: must be text and not empty", field=field, reason=reason)
    return text
