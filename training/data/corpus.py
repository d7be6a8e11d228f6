"""Streaming reader for text corpora.

A .jsonl file has one {"text"} object per line, a .parquet file a column `text`; a .txt file is a
single text. Texts are read one at a time, so a corpus may be larger than memory. Line ends, spaces
and byte order marks are preserved.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from training.errors import DetailedError

Item = TypeVar("Item")

PACKINGS = ("documents", "stream")  # as in packing.py
ENDINGS = (".txt", ".jsonl", ".parquet")
ROBOTS = "robots.txt"  # of a mirrored site: rules for crawlers (RFC 9309), no document
SHOWN_ENDINGS = 4
TEXTS_HELP = '.txt, .jsonl with {"text"} a line, .parquet with a column text, or folders of them'
BATCH_ROWS = 256  # of a .parquet file in memory
LARGEST_TEXT_BYTES = 256 << 20  # limit per .txt file, because each is read as a whole


class TextError(DetailedError, ValueError):
    """Error for an unreadable text; the message never contains text content.

    `field` is the file, "file:line", "file:line:key" for a .jsonl, "file:row" for a .parquet, or
    the argument with the paths.
    """

    reason = "INVALID_TEXT"


def text_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files and those inside given folders, ordered by name alone.

    In folders, files with other endings and robots.txt are skipped; `skipped_text` counts them.

    Raises:
        TextError: a path is missing or unsupported, a file is empty, or there are no files at all.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise TextError(f"texts: {path} is missing", field=path.name, reason="MISSING")
        inside = [file for file in path.rglob("*") if _is_read(file)] if path.is_dir() else [path]
        found += sorted(inside)
    for file in found:
        if file.suffix not in ENDINGS or not file.is_file():
            raise TextError(
                f"texts: {file} is not a .jsonl, .parquet or .txt file",
                field=file.name,
                reason="UNSUPPORTED",
                limit=", ".join(ENDINGS),
            )
        if file.stat().st_size == 0:
            raise TextError(f"texts: {file} is empty", field=file.name, reason="EMPTY")
    if not found:
        names = ", ".join(path.name for path in paths)
        others = _skipped(paths)
        note = ""
        if others:
            (ending, _), *_ = others.most_common(1)
            note = f" ({others.total()} other files, mostly {ending}: rename or convert them)"
        raise TextError(
            f"texts: {', '.join(map(str, paths))}: no .jsonl, .parquet or .txt file{note}",
            field=names,
            reason="EMPTY",
            limit=", ".join(ENDINGS),
        )
    return found


def skipped_text(paths: Sequence[Path]) -> str:
    """Return the number of files that `text_files` skips, by ending; "" if there are none."""
    others = _skipped(paths)
    if not others:
        return ""
    shown = [f"{count:,} {ending}" for ending, count in others.most_common(SHOWN_ENDINGS)]
    more = ["others"] if len(others) > SHOWN_ENDINGS else []
    pages = "; `thumbwheel data build` reads pages" if others[".html"] + others[".htm"] else ""
    return f"skipped files: {others.total():,} ({', '.join(shown + more)}){pages}"


def _is_read(file: Path) -> bool:
    return file.suffix in ENDINGS and file.name != ROBOTS


def _skipped(paths: Sequence[Path]) -> Counter[str]:
    """Count the skipped files of folders by ending, robots.txt by its name."""
    files = (file for path in paths for file in path.rglob("*"))
    return Counter(
        file.name if file.name == ROBOTS else file.suffix or "without an ending"
        for file in files
        if file.is_file() and not _is_read(file)
    )


def read_texts_of(file: Path) -> Iterator[str]:
    """Yield the texts of a file in order.

    Raises:
        TextError: a line or row has no text, or a text is empty; the message names file and place.
    """
    return (text for text, _ in read_identified(file))


def read_identified(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each text with its identifier: the column `id` of a .parquet file, otherwise "".

    Raises:
        TextError: as `read_texts_of`.
    """
    if file.suffix == ".parquet":
        yield from ((text, identifier) for text, identifier, _ in _read_rows(file))
    elif file.suffix == ".txt":
        if (size := file.stat().st_size) > LARGEST_TEXT_BYTES:
            raise TextError(
                f"{file.name}: {size} bytes; a .txt file may have {LARGEST_TEXT_BYTES},"
                " use .jsonl for more",
                field=file.name,
                reason="TOO_LARGE",
                limit=str(LARGEST_TEXT_BYTES),
            )
        try:
            text = file.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise TextError(
                f"{file.name}: not UTF-8 at byte {error.start}", field=file.name, reason="NOT_UTF8"
            ) from error
        yield _check_not_empty(text, file.name, file.name), ""
    else:
        yield from ((text, "") for text, _ in read_lines(file))


def read_sized(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the texts of a .jsonl or .parquet file, each with its bytes in the file.

    Raises:
        TextError: as `read_texts_of`.
    """
    if file.suffix == ".parquet":
        return ((text, size) for text, _, size in _read_rows(file))
    return read_lines(file)


def read_lines(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the text of each line of a .jsonl file with the length of the line in bytes.

    Raises:
        TextError: a line is not {"text": str}, or the text is empty.
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
                    _check_not_empty(text, place, f"{field}:text"),
                    f"{place}: text",
                    f"{field}:text",
                ),
                len(line),
            )


def _read_rows(file: Path) -> Iterator[tuple[str, str, int]]:
    """Yield text, identifier and share of the file's bytes of each row of a .parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise TextError(
            f"{file.name}: not a Parquet file", field=file.name, reason="MALFORMED"
        ) from error
    with opened:
        names = opened.schema_arrow.names
        if "text" not in names or not pa.types.is_string(opened.schema_arrow.field("text").type):
            raise TextError(
                f"{file.name}: no column `text` of strings", field=file.name, reason="MISSING"
            )
        size = file.stat().st_size // max(1, opened.metadata.num_rows)
        number = 0
        columns = [name for name in ("text", "id") if name in names]
        for batch in opened.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                place, field = f"{file.name} row {number}", f"{file.name}:{number}"
                yield _check_not_empty(row["text"], place, field), row.get("id") or "", size


def batches(
    items: Iterable[Item], size: Callable[[Item], int], max_size: int, max_items: int | None = None
) -> Iterator[list[Item]]:
    """Yield the items in lists that end with the item that reaches a limit.

    Args:
        size: size of an item, for example its characters.
        max_size: limit on the sizes of a list together.
        max_items: limit on the length of a list; None for no limit.
    """
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= max_size or len(batch) == max_items:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def check_unicode(text: str, name: str, field: str = "") -> str:
    """Return the text unchanged if UTF-8 can encode it.

    Args:
        field: field of the error, if different from `name`.

    Raises:
        TextError: the text contains an unpaired surrogate, for example from "\\ud800" in JSON or
            from a broken command-line argument.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"{name}: unpaired surrogate at character {error.start}",
            field=field or name,
            reason="NOT_UTF8",
        ) from error
    return text


def _check_not_empty(text: object, place: str, field: str) -> str:
    if not isinstance(text, str) or not text:
        reason = "MISSING" if text is None else "EMPTY" if text == "" else "WRONG_TYPE"
        raise TextError(f"{place}: text: must be text and not empty", field=field, reason=reason)
    return text
