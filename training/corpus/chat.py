"""`thumbwheel data chat`: tables of instructions as examples for `thumbwheel train sft`.

Columns of Alpaca, Dolly and FLAN, pairs of prompt and completion, and conversations are recognised.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.corpus.document import CorpusError, Stage, Verdict, find_surrogate
from training.corpus.sources.config import MAX_RECORD_BYTES, Kind, detect_kind

if TYPE_CHECKING:
    from training.corpus.sources.tables import Row

SUMMARY = "convert tables of instructions (Alpaca, Dolly, FLAN, conversations) for train sft"
SHOWN_FILES = 5


@dataclass(frozen=True, slots=True)
class ChatColumns:
    """Names of the columns of an instruction, its input ("" if none) and its answer."""

    prompt: str
    context: str
    response: str


FORMATS = (
    ChatColumns("instruction", "input", "output"),  # Alpaca
    ChatColumns("instruction", "context", "response"),  # Dolly
    ChatColumns("inputs", "", "targets"),  # FLAN, P3, xP3
    ChatColumns("prompt", "", "completion"),
    ChatColumns("prompt", "", "response"),
    ChatColumns("question", "context", "answer"),
)
CONVERSATIONS = ("messages", "conversations")
# Names of the roles in tables of conversations; ShareGPT writes human and gpt.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


@dataclass(frozen=True, slots=True)
class ChatExample:
    """A line of the training file: messages before the response, and the response."""

    messages: Sequence[Mapping[str, str]]
    response: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".json, .jsonl (.gz, .zst), .parquet"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    parser.add_argument("--prompt", default="", metavar="COLUMN", help="column of the instruction")
    parser.add_argument("--context", default="", metavar="COLUMN", help="column of its input")
    parser.add_argument("--response", default="", metavar="COLUMN", help="column of the answer")
    parser.add_argument("--licence", default="", help="licence to note in each line")


def run(options: argparse.Namespace) -> int:
    """Convert the files.

    Raises:
        CorpusError: a file is missing, of another kind or the output, options do not fit together,
            or no row gives an example.
    """
    if bool(options.prompt) != bool(options.response) or (options.context and not options.prompt):
        raise CorpusError(
            "--prompt and --response: give both, or neither to recognise the columns",
            field="--prompt",
            reason="CONFLICT",
        )
    formats: Sequence[ChatColumns] = FORMATS
    if options.prompt:
        formats = (ChatColumns(options.prompt, options.context, options.response),)
    for file in options.files:
        if not file.is_file() or detect_kind(file) not in (Kind.JSON_LINES, Kind.PARQUET):
            raise CorpusError(
                f"{file}: missing, or neither JSON nor Parquet by its name",
                field=file.name,
                reason="UNSUPPORTED",
                limit=".json, .jsonl, .ndjson (.gz, .zst), .parquet",
            )
        if options.out.resolve() == file.resolve():
            raise CorpusError(f"--out: {options.out} is an input", field="--out", reason="CONFLICT")
    dropped = convert(options.files, options.out, formats, options.licence)
    kept = dropped.pop("", 0)
    print(f"{kept} examples in {options.out}")
    for rule, count in sorted(dropped.items()):
        print(f"{count} rows dropped: {rule}")
    return 0


def convert(
    files: Sequence[Path], out: Path, formats: Sequence[ChatColumns] = FORMATS, licence: str = ""
) -> Counter[str]:
    """Write the examples of all files; return the rows by the rule that dropped them, "" for kept.

    The output appears as a whole: it is renamed at the end.

    Raises:
        CorpusError: no row gives an example.
    """
    from training.corpus.sources.tables import json_rows, parquet_rows

    counts: Counter[str] = Counter()
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as opened:
        for file in files:
            is_table = detect_kind(file) == Kind.PARQUET
            rows = parquet_rows(file) if is_table else json_rows(file, MAX_RECORD_BYTES)
            for row in rows:
                example = to_example(row, formats)
                if isinstance(example, Verdict):
                    counts[example.rule] += 1
                    continue
                counts[""] += 1
                line = {"messages": example.messages, "response": example.response}
                line |= {"source": file.name} | ({"licence": licence} if licence else {})
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    if not counts[""]:
        partial.unlink()
        reasons = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items()) if rule)
        names = ", ".join(file.name for file in files[:SHOWN_FILES])
        raise CorpusError(
            f"{names}: no row gives an example ({reasons or 'no rows'})",
            field=files[0].name,
            reason="EMPTY",
        )
    partial.replace(out)
    return counts


def to_example(row: Row, formats: Sequence[ChatColumns] = FORMATS) -> ChatExample | Verdict:
    """Return the example in a row, or the reason why there is none."""
    fields = row[1]
    if isinstance(fields, Verdict):
        return fields
    example: ChatExample | Verdict = Verdict(Stage.READ, "no known columns")
    for columns in formats:
        if columns.prompt in fields and columns.response in fields:
            example = _from_columns(fields, columns)
            break
    else:
        for name in CONVERSATIONS:
            if formats is FORMATS and name in fields:
                example = _from_conversation(fields[name])
                break
    if isinstance(example, ChatExample):
        texts = [*(message["content"] for message in example.messages), example.response]
        if any(find_surrogate(text) >= 0 for text in texts):
            return Verdict(Stage.READ, "encoding")
    return example


def _from_columns(fields: Mapping[str, object], columns: ChatColumns) -> ChatExample | Verdict:
    """Join an instruction with its input; Alpaca and Dolly leave inputs empty."""
    prompt, response = fields[columns.prompt], fields[columns.response]
    context = fields.get(columns.context) or ""
    if not isinstance(prompt, str) or not isinstance(response, str) or not isinstance(context, str):
        return Verdict(Stage.READ, "column that is not text")
    if not prompt.strip():
        return Verdict(Stage.READ, "empty prompt")
    if not response.strip():
        return Verdict(Stage.READ, "empty response")
    content = f"{prompt.strip()}\n\n{context.strip()}" if context.strip() else prompt.strip()
    return ChatExample([{"role": "user", "content": content}], response.strip())


def _from_conversation(turns: object) -> ChatExample | Verdict:
    """Take the last answer of a conversation as the response."""
    malformed = Verdict(Stage.READ, "malformed conversation")
    if not isinstance(turns, list) or len(turns) < 2:
        return malformed
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            return malformed
        role = ROLES.get(str(turn.get("role") or turn.get("from")))
        content = turn.get("content") or turn.get("value")
        if role is None or not isinstance(content, str) or not content.strip():
            return malformed
        messages.append({"role": role, "content": content.strip()})
    response = messages.pop()
    if response["role"] != "assistant" or messages[-1]["role"] == "assistant":
        return Verdict(Stage.READ, "conversation without a last answer")
    return ChatExample(messages, response["content"])
