"""`thumbwheel data chat`: tables of instructions as rows of `thumbwheel train sft`.

Formats and checks are those of `train sft`, but invalid rows are dropped and counted, and unknown
columns are ignored.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import IO

from durable_files.files import publish
from training.corpus.document import CorpusError
from training.data.formats.catalogue import SFT, RowKind, from_columns
from training.data.formats.detection import FileFormat
from training.data.formats.fields import (
    ExampleError,
    Row,
    check_context,
    messages_in,
    number_in,
    text_in,
)
from training.data.formats.files import FILES_HELP, read_objects

SUMMARY = "convert tables of instructions (Alpaca, Dolly, FLAN, conversations) for train sft"


class DroppedRows:
    """Numbers of dropped rows by field and reason, each with its first row."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def add(self, file: Path, number: int, error: ExampleError) -> None:
        """Count the row of this number, from 1."""
        self._counts[error.field, error.reason] += 1
        self._first.setdefault(
            (error.field, error.reason), f"{file.name} row {number}: {error.text}"
        )

    def lines(self) -> list[str]:
        """Return a line for each field and reason, the most frequent first."""
        return [
            f"{count:,} {'row' if count == 1 else 'rows'} dropped, first {self._first[key]}"
            for key, count in self._counts.most_common()
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    parser.add_argument("--prompt", default="", metavar="COLUMN", help="column of the instruction")
    parser.add_argument("--context", default="", metavar="COLUMN", help="column of its input")
    parser.add_argument("--response", default="", metavar="COLUMN", help="column of the answer")
    parser.add_argument("--licence", default="", help="licence to note in each line")


def run(options: argparse.Namespace) -> int:
    """Convert the files; the output appears as a whole, because it is renamed at the end.

    Raises:
        CorpusError: a file is missing or the output, options do not fit together, or no row gives
            an example.
    """
    if bool(options.prompt) != bool(options.response) or (options.context and not options.prompt):
        raise CorpusError(
            "--prompt and --response: give both, or neither to recognise the columns",
            field="--prompt",
            reason="CONFLICT",
        )
    kind, out = SFT, options.out
    if options.prompt:
        name = f"columns {options.prompt}/{options.response}"
        named = from_columns(name, options.prompt, options.context, options.response)
        kind = RowKind(("data chat",), SFT.optional, (named,))
    for file in options.files:
        if not file.is_file():
            raise CorpusError(f"{file}: no such file", field=file.name, reason="MISSING")
        if out.resolve() == file.resolve():
            raise CorpusError(f"--out: {out} is an input", field="--out", reason="CONFLICT")
    partial, kept, dropped = out.with_name(out.name + ".partial"), 0, DroppedRows()
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as opened:
        for file in options.files:
            kept += convert(file, kind, options.licence, opened, dropped)
    if not kept:
        partial.unlink()
        reasons = "; ".join(dropped.lines()) or "no rows"
        raise CorpusError(
            f"no row gives an example: {reasons}", field=options.files[0].name, reason="EMPTY"
        )
    publish(partial, out)
    examples = "example" if kept == 1 else "examples"
    print("\n".join((f"{kept:,} {examples} in {out}", *dropped.lines())))
    return 0


def convert(file: Path, kind: RowKind, licence: str, out: IO[str], dropped: DroppedRows) -> int:
    """Write our own row for each valid row of a file, print the format, and return their number."""
    rows, kept = FileFormat(kind), 0
    for number, row in read_objects(file):
        try:
            if isinstance(row, ExampleError):
                raise row
            own = stripped(rows.convert(number, row))
        except ExampleError as error:
            dropped.add(file, number, error)
            continue
        kept += 1
        line = {**own, "source": file.name} | ({"licence": licence} if licence else {})
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
    if rows.found is not None:
        ignored = ", ".join(f"{name} ({count:,})" for name, count in rows.unknown.items())
        print(f"{file.name}: {rows.found.name}{ignored and f'; ignored columns: {ignored}'}")
    return kept


def stripped(own: Row) -> Row:
    """Return our own row with texts without surrounding white space.

    Raises:
        ExampleError: `train sft` would refuse the row, or a text consists of white space.
    """
    messages = [
        message | {"content": message["content"].strip()}
        for message in messages_in(own, "messages")
    ]
    check_context(messages, "messages")
    response = text_in(own, "response").strip()
    if not response or not messages[-1]["content"]:
        raise ExampleError(
            "prompt or response: white space only",
            field="messages" if response else "response",
            reason="EMPTY",
        )
    number_in(own, "weight", 1.0)
    return {**own, "messages": messages, "response": response}
