"""Reading of a file of a source by its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from training.corpus.charset import decode
from training.corpus.document import (
    Document,
    Item,
    Origin,
    Page,
    Rejected,
    Stage,
    Verdict,
    record_id,
)
from training.corpus.sources.config import Kind, SourceConfig
from training.corpus.sources.tables import read_json_lines, read_parquet
from training.corpus.sources.warc import read_warc

HTML_TYPE = "text/html"


def read(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield exactly one item for each record of a file, in order, without holding the file.

    Equal records have equal identifiers. Records that cannot be read give a `Rejected`; none raises
    an error.

    Raises:
        CorpusError: the kind of the file is unknown.
        OSError: the file cannot be opened.
    """
    items = READERS[source.kind_of(file)](source, file)
    return (replace(item, origin=replace(item.origin, id=record_id(item))) for item in items)


def read_single(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield the page or text of a file that is a single record.

    Its URL is the path with the scheme "file", so that texts can be traced to their files.
    """
    name = source.relative_name(file)
    url = f"file:{quote(name)}"
    origin = Origin("", url, source.name, source.licence)
    limit = source.max_record_bytes
    with file.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        value = f"{file.stat().st_size} bytes (at most {limit})"
        yield Rejected(origin, Verdict(Stage.READ, "record size", value))
    elif not content.strip():
        yield Rejected(origin, Verdict(Stage.READ, "empty text"))
    elif source.kind_of(file) == Kind.HTML:
        yield Page(origin, content, HTML_TYPE)
    elif (text := decode(content)) is None:
        yield Rejected(origin, Verdict(Stage.READ, "encoding", "no known encoding"))
    else:
        yield Document(origin, text)


# The readers leave the identifiers empty.
READERS: dict[Kind, Callable[[SourceConfig, Path], Iterator[Item]]] = {
    Kind.WARC: read_warc,
    Kind.WET: read_warc,
    Kind.JSON_LINES: read_json_lines,
    Kind.PARQUET: read_parquet,
    Kind.TEXT: read_single,
    Kind.HTML: read_single,
}
