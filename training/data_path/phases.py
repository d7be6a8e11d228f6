"""Work on one input file, as the workers run it: cleaning and finishing, resumable by file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from durable_files.files import write_json
from training.corpus.document import Origin, Stage, Verdict
from training.corpus.duplicates.rows import rows_of, write_rows
from training.data_path import toolkit
from training.data_path.clean import PartFigures, clean, verdict_row
from training.data_path.config import CorpusConfig
from training.data_path.finish import FinishFigures, document_of, finish, origin_of
from training.data_path.removal import Removal, removed_by
from training.data_path.tables import (
    CLEANED,
    ORIGIN_NAMES,
    VERDICTS,
    TableWriter,
    count_rows,
    read_rows,
)

NAME_DIGITS = 16
# Row of a duplicate: its place among the cleaned texts of all parts, its stage and the identifier
# of the document that is kept instead.
DUPLICATES = pa.schema(
    [pa.field("number", pa.uint32()), pa.field("stage", pa.string()), pa.field("kept", pa.string())]
)


@dataclass(frozen=True)
class Part:
    """The files of one input file in a folder of work.

    Attributes:
        source: name of the source.
        file: path of the input relative to the source, with "/" as separator.
    """

    folder: Path
    source: str
    file: str

    @property
    def name(self) -> str:
        """Return the name of the files of this part, equal in each run."""
        return hashlib.sha256(f"{self.source}\0{self.file}".encode()).hexdigest()[:NAME_DIGITS]

    def path(self, ending: str) -> Path:
        """Return the path of a file of the part."""
        return self.folder / f"{self.name}.{ending}"

    @property
    def cleaned(self) -> Path:
        return self.path("parquet")

    @property
    def signatures(self) -> Path:
        return self.path("signatures")

    @property
    def verdicts(self) -> Path:
        return self.path("verdicts.parquet")

    @property
    def removed(self) -> Path:
        return self.path("removed.parquet")

    @property
    def examples(self) -> Path:
        return self.path("examples.json")

    @property
    def record(self) -> Path:
        return self.path("json")

    def figures(self) -> PartFigures:
        """Return the record; without a stamp for an unfinished part."""
        if not self.record.exists():
            return PartFigures()
        return PartFigures(**json.loads(self.record.read_text()))

    def delete(self) -> None:
        """Delete all files of the part, the record first."""
        for path in (self.record, *sorted(self.folder.glob(f"{self.name}.*"))):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class CleanTask:
    """An input file to clean, as sent to a worker."""

    config: CorpusConfig
    data: toolkit.Data
    input: toolkit.Input
    folder: Path
    stamp: str

    @property
    def part(self) -> Part:
        """Return the files of the result."""
        return Part(self.folder, self.input.source.name, self.input.name)


def clean_part(task: CleanTask) -> PartFigures:
    """Clean an input file and return the record of its part."""
    part, steps = task.part, toolkit.clean_steps(task.config, task.data)
    part.delete()
    items = toolkit.read(task.input)
    figures = clean(items, steps, part.cleaned, part.verdicts, part.examples)
    with figures.timed(Stage.NEAR_DUPLICATE):
        _write_signatures(part)
    figures.read_bytes, figures.stamp = task.input.size, task.stamp
    figures.write(part.record)
    return figures


def apply_removals(part: Part, found: list[Removal]) -> None:
    """Delete removed documents from the cleaned texts.

    The verdicts are written before the texts are deleted, so that an interruption loses no row.
    """
    if not found:
        return
    # By origin, because records with the same identifier may have different licences.
    verdicts = {
        origin: verdict
        for origin in map(origin_of, read_rows(part.cleaned, ORIGIN_NAMES))
        if (verdict := removed_by(found, origin))
    }
    _forget_examples(part, found)
    if not verdicts:
        return
    known = list(read_rows(part.removed)) if part.removed.exists() else []
    known_origins = set(map(origin_of, known))
    with TableWriter(part.removed, VERDICTS) as table:
        for row in known:
            table.add(row)
        for document in map(document_of, read_rows(part.cleaned)):
            origin = document.origin
            if origin in verdicts and origin not in known_origins:
                table.add(verdict_row(document, verdicts[origin]))
    # The texts are last: as long as they are complete, a repetition finds the removed ones again.
    _write_signatures(part, without=verdicts.keys())
    remaining = (row for row in read_rows(part.cleaned) if origin_of(row) not in verdicts)
    with TableWriter(part.cleaned, CLEANED) as texts:
        for row in remaining:
            texts.add(row)


def _write_signatures(part: Part, without: Collection[Origin] = ()) -> None:
    """Write digests and signatures of the cleaned texts, with which duplicates are found."""
    documents = map(document_of, read_rows(part.cleaned))
    texts = (
        (one.origin.id, one.text, "\0".join(astuple(one.origin)))
        for one in documents
        if one.origin not in without
    )
    write_rows(part.signatures, rows_of(texts))


def _forget_examples(part: Part, found: list[Removal]) -> None:
    """Delete examples of removed documents, which other stages had dropped."""
    rows = json.loads(part.examples.read_text())
    kept = [
        {
            **row,
            "examples": [one for one in row["examples"] if not removed_by(found, origin_of(one))],
        }
        for row in rows
    ]
    if kept != rows:
        write_json(part.examples, kept)


def finish_part(
    config: CorpusConfig, data: toolkit.Data, duplicates: Path, folder: Path, part: tuple[Path, int]
) -> FinishFigures:
    """Finish the texts of a part and return its record; a finished part is left as it is.

    Args:
        duplicates: table of the duplicates of all parts.
        folder: for the results of all parts.
        part: table of the cleaned texts, and the number of texts in the parts before it.
    """
    cleaned, first = part
    name = cleaned.name.removesuffix(".parquet")
    record = folder / f"{name}.json"
    if record.exists():
        return FinishFigures(**json.loads(record.read_text()))
    end = first + count_rows(cleaned)
    own = pq.read_table(duplicates, filters=[("number", ">=", first), ("number", "<", end)])
    dropped = {
        row["number"] - first: Verdict(Stage(row["stage"]), "duplicate", row["kept"])
        for row in own.to_pylist()
    }
    steps = toolkit.finish_steps(config, data)
    return finish(read_rows(cleaned), dropped, steps, folder, name, config.seed)


def fingerprint(value: object) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
