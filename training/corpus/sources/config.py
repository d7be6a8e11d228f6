"""Settings of a source: its files, their kind, licence, weight and columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath

from training.corpus.document import CorpusError
from training.data.corpus import ROBOTS

# A page of Common Crawl has at most 5 MiB, the longest books as text about 10 MiB.
MAX_RECORD_BYTES = 16 << 20
LARGEST_RECORD_BYTES = 256 << 20


class Kind(StrEnum):
    """Formats of files. WET is WARC with records of extracted text."""

    WARC = "warc"
    WET = "wet"
    JSON_LINES = "jsonl"
    PARQUET = "parquet"
    TEXT = "text"
    HTML = "html"


# Endings of each kind. WARC, WET and JSON lines may be compressed as well.
ENDINGS = {
    Kind.WET: (".wet",),
    Kind.WARC: (".warc",),
    Kind.JSON_LINES: (".jsonl", ".ndjson", ".json"),
    Kind.PARQUET: (".parquet",),
    Kind.TEXT: (".txt",),
    Kind.HTML: (".html", ".htm", ".xhtml"),
}
COMPRESSIONS = (".gz", ".zst")
# Names in the folder of a crawl.
LATEST_CRAWL, CRAWL_LOG = "latest", "log.jsonl"
COMPRESSIBLE = frozenset({Kind.WARC, Kind.WET, Kind.JSON_LINES})


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a table, each with alternatives; the first that a row has is used.

    A dot leads into an object: "metadata.url". The defaults cover C4 and FineWeb (text, url),
    RefinedWeb (content, url, timestamp), RedPajama 2 (raw_content) and Dolma (text, source,
    created, metadata.url).
    """

    text: tuple[str, ...] = ("text", "content", "raw_content")
    url: tuple[str, ...] = ("url", "metadata.url", "meta.url")
    date: tuple[str, ...] = ("date", "timestamp", "created", "added")
    licence: tuple[str, ...] = ("license", "licence", "metadata.license", "meta.license")
    collection: tuple[str, ...] = ("source", "metadata.source", "meta.source")


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """A named set of files of a corpus.

    Attributes:
        name: part of each document's identifier; a new name gives new identifiers.
        folder: folder of the files. Of a folder of `thumbwheel data crawl` only the last finished
            crawl is read.
        files: patterns of `Path.glob` below the folder.
        kind: format of all files; None detects it by the name of each file.
        licence: licence of documents whose record names none.
        weight: share relative to other sources with a weight; None keeps the source whole.
        max_record_bytes: limit per record; larger ones are skipped without being held in memory.

    Raises:
        CorpusError: a value is not possible.
    """

    name: str
    folder: Path
    files: tuple[str, ...] = ("**/*",)
    kind: Kind | None = None
    licence: str = ""
    weight: float | None = None
    columns: Columns = field(default_factory=Columns)
    max_record_bytes: int = MAX_RECORD_BYTES

    def __post_init__(self) -> None:
        if not self.name or "\0" in self.name:
            raise CorpusError("name: must be text and not empty", field="name", reason="EMPTY")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise CorpusError(
                f"weight: {self.weight:g} must be above 0",
                field="weight",
                reason="OUT_OF_RANGE",
                limit="above 0",
            )
        if not 0 < self.max_record_bytes <= LARGEST_RECORD_BYTES:
            raise CorpusError(
                f"max_record_bytes: {self.max_record_bytes} must be from 1 to"
                f" {LARGEST_RECORD_BYTES}",
                field="max_record_bytes",
                reason="OUT_OF_RANGE",
                limit=f"1 to {LARGEST_RECORD_BYTES}",
            )
        if not self.columns.text:
            raise CorpusError(
                "columns.text: needs at least one name", field="columns.text", reason="EMPTY"
            )

    def list_files(self) -> list[Path]:
        """Return the files in the order of their relative paths.

        Files of an unknown kind and robots.txt are left out unless `kind` is set.

        Raises:
            CorpusError: the folder is missing, or no file matches.
        """
        if not self.folder.is_dir():
            raise CorpusError(
                f"folder: {self.folder} is not a folder", field="folder", reason="MISSING"
            )
        found = {
            file
            for pattern in self.files
            for file in self.root.glob(pattern)
            if file.is_file() and (self.kind or detect_kind(file))
        } - {self.crawl_log}
        if not found:
            endings = sorted(ending for group in ENDINGS.values() for ending in group)
            raise CorpusError(
                f"files: no file of a known kind in {self.folder} matches {', '.join(self.files)}",
                field="files",
                reason="EMPTY",
                limit=", ".join(endings),
            )
        return sorted(found, key=self.relative_name)

    def relative_name(self, file: Path) -> str:
        """Return the path below the folder with "/" as separator."""
        return file.relative_to(self.root).as_posix()

    @property
    def crawl_log(self) -> Path | None:
        """Log of the last finished crawl, if the folder is that of a crawl."""
        log = self.folder / LATEST_CRAWL / CRAWL_LOG
        return log if log.exists() else None

    @property
    def root(self) -> Path:
        """Folder below which the files are."""
        return self.folder if self.crawl_log is None else self.folder / LATEST_CRAWL

    def kind_of(self, file: Path) -> Kind:
        """Return the format of a file.

        Raises:
            CorpusError: the kind is not set, and the name of the file tells none.
        """
        kind = self.kind or detect_kind(file)
        if kind is None:
            raise CorpusError(
                f"kind: {file.name} has none of the known endings; set the kind",
                field="kind",
                reason="UNKNOWN",
                limit=", ".join(Kind),
            )
        return kind


def detect_kind(file: PurePath) -> Kind | None:
    """Return the format that the name of a file tells, for example "x.warc.wet.gz" is WET.

    The robots.txt of a mirrored site is no document.
    """
    name = file.name.lower()
    if name == ROBOTS:
        return None
    stem = name
    for compression in COMPRESSIONS:
        stem = stem.removesuffix(compression)
    for kind, endings in ENDINGS.items():
        if stem.endswith(endings) and (stem == name or kind in COMPRESSIBLE):
            return kind
    return None
