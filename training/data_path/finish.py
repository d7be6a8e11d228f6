"""Third phase: the texts of a part without duplicates, evaluation items and personal data.

The second phase, which compares the texts of all parts, is in `duplicates`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from durable_files.files import write_json
from training.corpus.document import Document, Origin, Verdict
from training.data_path.clean import Examples, verdict_row
from training.data_path.tables import DOCUMENTS, ORIGIN_NAMES, VERDICTS, Row, TableWriter

# Texts that are sorted in memory at once.
RUN_BYTES = 32 << 20
ORDER_BYTES = 8

Redact = Callable[[Document], tuple[str, Counter[str]]]


@dataclass(frozen=True)
class FinishSteps:
    """Steps of the third phase.

    Attributes:
        decontaminate: verdict on a text that contains items of the evaluation.
        redact: text with placeholders, and their number by kind.
    """

    decontaminate: Callable[[Document], Document | Verdict]
    redact: Redact


@dataclass(frozen=True)
class FinishFigures:
    """Record of a finished part.

    Attributes:
        redacted: number of placeholders by kind.
        text_bytes: size of the finished texts.
    """

    redacted: dict[str, int]
    text_bytes: int


def origin_of(row: Mapping[str, Any]) -> Origin:
    """Return the origin of a row of a table."""
    return Origin(**{name: row[name] for name in ORIGIN_NAMES})


def document_of(row: Mapping[str, Any]) -> Document:
    """Return the document of a row of a table."""
    return Document(origin_of(row), row["text"], row["language"])


def order_of(identifier: str, seed: int) -> int:
    """Return the place of a document in the shuffled whole, uniform over 64 bits."""
    digest = hashlib.sha256(f"order {seed} {identifier}".encode()).digest()
    return int.from_bytes(digest[:ORDER_BYTES], "big")


def finish(
    rows: Iterable[Mapping[str, Any]],
    dropped: Mapping[int, Verdict],
    steps: FinishSteps,
    folder: Path,
    name: str,
    seed: int,
) -> FinishFigures:
    """Write the finished texts of a part as runs sorted by `order`, and the verdicts of others.

    Args:
        rows: rows of the part's table of cleaned texts.
        dropped: verdicts on duplicates by number of the row, from 0.
        folder: receives NAME-RUN.parquet, NAME.verdicts.parquet, NAME.examples.json and, last,
            NAME.json with the record, which is returned.
    """
    redacted: Counter[str] = Counter()
    shown, run, size, runs, text_bytes = Examples(), list[Row](), 0, 0, 0
    with TableWriter(folder / f"{name}.verdicts.parquet", VERDICTS) as verdicts:
        for number, document in enumerate(map(document_of, rows)):
            judged = dropped.get(number) or steps.decontaminate(document)
            if isinstance(judged, Verdict):
                shown.add(document.origin, judged, document.text)
                verdicts.add(verdict_row(document, judged))
                continue
            text, counts = steps.redact(judged)
            redacted += counts
            run.append(
                {
                    **asdict(judged.origin),
                    "language": judged.language,
                    "text": text,
                    "personal_data": ", ".join(
                        f"{count} {kind}" for kind, count in sorted(counts.items())
                    ),
                    "order": order_of(judged.origin.id, seed),
                }
            )
            size += len(text)
            text_bytes += len(text.encode())
            if size >= RUN_BYTES:
                _write_run(run, folder / f"{name}-{runs:05}.parquet")
                run, size, runs = [], 0, runs + 1
        _write_run(run, folder / f"{name}-{runs:05}.parquet")
    write_json(folder / f"{name}.examples.json", shown.rows())
    figures = FinishFigures(dict(redacted), text_bytes)
    write_json(folder / f"{name}.json", asdict(figures))
    return figures


def runs_of(folder: Path) -> Iterator[Path]:
    """Yield the runs of all parts in order of their names."""
    yield from sorted(
        path for path in folder.glob("*.parquet") if not path.name.endswith(".verdicts.parquet")
    )


def _write_run(rows: list[Row], path: Path) -> None:
    with TableWriter(path, DOCUMENTS) as table:
        for row in sorted(rows, key=lambda row: (row["order"], row["id"])):
            table.add(row)
