"""`thumbwheel data pii FILE …`: count personal data in texts, or write the texts without it."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from training.corpus.document import CorpusError
from training.corpus.pii.kinds import DEFAULT_KINDS, Kind
from training.corpus.pii.regions import REGIONS

SUMMARY = "replace mail addresses, telephone numbers and other personal data by placeholders"
# Texts of documents and of examples for pretrain, SFT, reward models and instructions.
FIELDS = (
    "text messages prompt response chosen rejected instruction input output context completion "
    "question answer"
).split()
MAX_RECORD_CHARACTERS = 1 << 26
SUFFIXES = (".jsonl", ".txt")
COMPRESSIONS = ("", ".gz", ".zst")
UNDETERMINED = "und"  # ISO 639-2
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Rules:
    """Options of the command that apply to each record."""

    fields: Sequence[str]
    kinds: Collection[Kind]
    language: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="JSON lines (.jsonl) or one text (.txt), also .gz and .zst",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write the changed files here; else count only"
    )
    parser.add_argument(
        "--fields",
        default=",".join(FIELDS),
        help="fields of a JSON line that are texts or contain texts (default: %(default)s)",
    )
    parser.add_argument(
        "--kinds",
        default=",".join(sorted(DEFAULT_KINDS)),
        help=f"kinds to replace, of {', '.join(sorted(Kind))} (default: %(default)s)",
    )
    parser.add_argument(
        "--language",
        default="en",
        help="ISO 639-1 code for records without a field `language`, or "
        f"{UNDETERMINED} for rules of no country (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Process all files and print the counts of each one.

    Raises:
        CorpusError: a file or an option is invalid.
    """
    known = {kind.value: kind for kind in Kind}
    kinds = [name.strip() for name in options.kinds.split(",")]
    if unknown := [name for name in kinds if name not in known]:
        raise CorpusError(
            f"--kinds: {', '.join(unknown)} unknown; known are {', '.join(sorted(known))}",
            field="--kinds",
            reason="UNKNOWN",
            limit=", ".join(sorted(known)),
        )
    languages = (*sorted(REGIONS), UNDETERMINED)
    if options.language not in languages:
        raise CorpusError(
            f"--language: {options.language} unknown; known are {', '.join(languages)}",
            field="--language",
            reason="UNKNOWN",
            limit=", ".join(languages),
        )
    wanted = frozenset(known[name] for name in kinds)
    rules = Rules(options.fields.split(","), wanted, options.language)
    for path in options.files:
        _check_file(path, options.out)
    names = Counter(path.name for path in options.files)
    if options.out is not None and (equal := [name for name, n in names.items() if n > 1]):
        raise CorpusError(
            f"--out: several files are named {', '.join(equal)}",
            field="--out",
            reason="CONFLICT",
            limit="one file of each name",
        )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    for path in options.files:
        records, counts = _process(path, options.out, rules)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        print(f"{path}: {records} records, {found or 'no personal data'}")
    return 0


def _check_file(path: Path, out: Path | None) -> None:
    names = [suffix + compression for suffix in SUFFIXES for compression in COMPRESSIONS]
    if not path.name.endswith(tuple(names)):
        raise CorpusError(
            f"{path}: the name must end with {', '.join(names)}",
            field=str(path),
            reason="UNKNOWN",
            limit=", ".join(names),
        )
    if not path.is_file():
        raise CorpusError(f"{path}: no such file", field=str(path), reason="MISSING")
    if out is not None and out.resolve() == path.resolve().parent:
        raise CorpusError(
            f"--out: {out} contains the input {path.name}", field="--out", reason="CONFLICT"
        )


def _process(path: Path, out: Path | None, rules: Rules) -> tuple[int, Counter[Kind]]:
    """Read a file record by record; the output appears under its name when complete."""
    counts: Counter[Kind] = Counter()
    records = texts = 0
    is_text = ".txt" in path.suffixes
    rules = replace(rules, fields=("text",)) if is_text else rules
    partial = None if out is None else out / f"{path.name}.partial"
    with contextlib.ExitStack() as stack:
        read = stack.enter_context(_open(path, path, "r"))
        written = None if partial is None else stack.enter_context(_open(partial, path, "w"))
        for record, given in _records(read, path, is_text):
            changed, found = _redact(given, rules)
            texts += any(name in given for name in rules.fields)
            counts.update(found)
            records += 1
            if written is not None and found and not is_text:
                line = json.dumps(changed, ensure_ascii=False)
                # Unpaired surrogates, for which UTF-8 has no bytes, stay escaped.
                written.write((json.dumps(changed) if SURROGATE.search(line) else line) + "\n")
            elif written is not None:
                written.write(changed["text"] if is_text else record)
    if records and not texts:
        raise CorpusError(
            f"{path}: no record has one of the fields {', '.join(rules.fields)}",
            field="--fields",
            reason="MISSING",
            limit="a field of the records",
        )
    if partial is not None:
        partial.rename(partial.with_suffix(""))
    return records, counts


@contextlib.contextmanager
def _open(path: Path, named: Path, mode: str) -> Iterator[IO[str]]:
    """Open a text file, compressed as its name says."""
    with contextlib.ExitStack() as stack:
        binary: Any = stack.enter_context(path.open(f"{mode}b"))
        if named.suffix == ".gz":
            # Without a name and time, so that equal texts give equal bytes.
            binary = stack.enter_context(gzip.GzipFile("", f"{mode}b", fileobj=binary, mtime=0))
        elif named.suffix == ".zst":
            import zstandard

            binary = stack.enter_context(zstandard.open(binary, f"{mode}b"))
        yield stack.enter_context(io.TextIOWrapper(binary, "utf-8", newline=""))


def _records(opened: IO[str], path: Path, is_text: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each record as written and as an object, for texts with the field `text`."""
    from zstandard import ZstdError

    number = 0
    read = opened.read if is_text else opened.readline
    try:
        while record := read(MAX_RECORD_CHARACTERS + 1):
            if len(record) > MAX_RECORD_CHARACTERS:
                raise CorpusError(
                    f"{path}:{number}: more than {MAX_RECORD_CHARACTERS} characters",
                    field=f"{path}:{number}",
                    reason="TOO_LARGE",
                    limit=f"at most {MAX_RECORD_CHARACTERS} characters",
                )
            if is_text:
                yield record, {"text": record}
            elif record.strip():
                given = json.loads(record)
                if not isinstance(given, dict):
                    raise TypeError
                yield record, given
            number += 1
    except (json.JSONDecodeError, RecursionError, TypeError):
        text, limit = "not a JSON object", "one JSON object in each line"
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, ZstdError) as error:
        text, limit = f"cannot be read ({type(error).__name__})", "UTF-8, complete"
    else:
        return
    raise CorpusError(
        f"{path}:{number}: {text}", field=f"{path}:{number}", reason="MALFORMED", limit=limit
    )


def _redact(record: dict[str, Any], rules: Rules) -> tuple[dict[str, Any], Counter[Kind]]:
    """Replace personal data in all texts of the given fields, which share their placeholders."""
    from training.corpus.pii.redaction import redact_all

    chosen = {name: record[name] for name in rules.fields if name in record}
    texts = list(_texts(chosen))
    language, url = record.get("language"), record.get("url")
    results = redact_all(
        texts,
        language if isinstance(language, str) else rules.language,
        rules.kinds,
        url if isinstance(url, str) else "",
    )
    counts: Counter[Kind] = Counter()
    for result in results:
        counts.update(result.counts)
    if not counts:
        return record, counts
    replaced = iter([result.text for result in results])
    return {**record, **_with_texts(chosen, replaced)}, counts


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _with_texts(value: Any, texts: Iterator[str]) -> Any:
    """Return the value with its texts, in the order of `_texts`, replaced by those given."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, dict):
        return {name: _with_texts(part, texts) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_texts(part, texts) for part in value]
    return value
