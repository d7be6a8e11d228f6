"""Files with damage, bombs and oversized records between good documents."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.archives import HEAD, page_url, response_record, warc_record
from tests.training.data_path.corpora import article, page
from training.corpus.document import Stage

NESTED = b"<div>" * 100_000 + b"text"
NO_ENCODING = bytes(range(1, 256)) * 20
GZIP_HEAD = HEAD + b"Content-Encoding: gzip\r\n"
CHUNK_BYTES = 1 << 20


@dataclass
class BadInput:
    """Verdicts that the files must get.

    Attributes:
        good: URLs of the good documents.
        bad: stage and rule by URL.
        bad_without_url: stage and rule of each record without a URL.
    """

    good: list[str] = field(default_factory=list)
    bad: dict[str, tuple[Stage, str]] = field(default_factory=dict)
    bad_without_url: list[tuple[Stage, str]] = field(default_factory=list)


def write_bad_input(folder: Path, size: int) -> BadInput:
    """Write an archive, tables and single files.

    Args:
        size: bytes of the oversized records and of the contents of the bombs. Bombs are only
            recognised above 64 MiB.
    """
    folder.mkdir()
    found = BadInput()
    _write_archive(folder / "a.warc.gz", size, found)
    _write_cut_archive(folder / "b.warc", size, found)
    _write_tables(folder, size, found)
    _write_files(folder, found)
    return found


def _good(number: int, found: BadInput) -> bytes:
    """Return a record that stays in the corpus."""
    found.good.append(page_url(number))
    html = f"<html><body><main><p>{article(number)}</p></main></body></html>"
    return response_record(number, html.encode())


def _bomb(size: int) -> bytes:
    """Return zeros as a gzip member, compressed to a thousandth."""
    packed = zlib.compressobj(1, wbits=31)
    return b"".join(packed.compress(bytes(CHUNK_BYTES)) for _ in range(size // CHUNK_BYTES)) + (
        packed.flush()
    )


def _write_archive(path: Path, size: int, found: BadInput) -> None:
    """Write one gzip member for each record; the last one is cut."""
    read, extraction = Stage.READ, Stage.EXTRACTION
    found.bad |= {
        page_url(101): (read, "compression ratio"),
        page_url(102): (read, "content size"),
        page_url(103): (read, "record size"),
        page_url(104): (extraction, "encoding"),
        page_url(105): (extraction, "nesting"),
        page_url(106): (read, "truncated"),
    }
    with path.open("wb") as opened:
        opened.write(gzip.compress(_good(1, found)))
        with gzip.open(opened, "wb", 1) as member:
            _write_long_record(member, 101, size, bytes(CHUNK_BYTES))
        opened.write(gzip.compress(_good(2, found)))
        opened.write(gzip.compress(response_record(102, _bomb(size), GZIP_HEAD)))
        with gzip.open(opened, "wb", 1) as member:
            # Compressed to about a fiftieth, as a real page may be.
            noise = random.Random(1).randbytes(CHUNK_BYTES // 50)
            _write_long_record(member, 103, size, noise + bytes(CHUNK_BYTES - len(noise)))
        opened.write(gzip.compress(_good(3, found)))
        opened.write(gzip.compress(response_record(104, NO_ENCODING)))
        opened.write(gzip.compress(response_record(105, NESTED)))
        opened.write(gzip.compress(_good(4, found)))
        opened.write(gzip.compress(response_record(106))[:-20])


def _write_long_record(opened: gzip.GzipFile, number: int, size: int, chunk: bytes) -> None:
    block = HEAD + b"\r\n"
    head = warc_record(block, page_url(number), length=len(block) + size)
    opened.write(head.removesuffix(b"\r\n\r\n"))
    for _ in range(size // len(chunk)):
        opened.write(chunk)
    opened.write(b"\r\n\r\n")


def _write_cut_archive(path: Path, size: int, found: BadInput) -> None:
    """Write records without compression: a sparse one of the given size, and a cut one."""
    block = HEAD + b"\r\n"
    found.bad[page_url(107)] = (Stage.READ, "record size")
    found.bad[page_url(108)] = (Stage.READ, "truncated")
    with path.open("wb") as opened:
        opened.write(_good(5, found))
        head = warc_record(block, page_url(107), length=len(block) + size)
        opened.write(head.removesuffix(b"\r\n\r\n"))
        opened.seek(size, 1)
        opened.write(b"\r\n\r\n")
        opened.write(_good(6, found))
        opened.write(response_record(108, length=10**12))


def _write_tables(folder: Path, size: int, found: BadInput) -> None:
    """Write JSON lines: a sparse line, one in no encoding, and a bomb as a gzip member."""
    rows = [page(number, "table.example") for number in range(10, 14)]
    found.good += [row["url"] for row in rows]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    with (folder / "c.jsonl").open("wb") as opened:
        opened.write(lines[0] + b'{"text": "')
        opened.seek(size, 1)
        opened.write(b'"}\n{"text": "' + NO_ENCODING.replace(b"\n", b"") + b'"}\n' + lines[1])
    with (folder / "d.jsonl.gz").open("wb") as opened:
        opened.write(gzip.compress(lines[2]))
        opened.write(_bomb(size))
        opened.write(gzip.compress(lines[3]))
    rules = ("record size", "json", "compression ratio")
    found.bad_without_url += [(Stage.READ, rule) for rule in rules]


def _write_files(folder: Path, found: BadInput) -> None:
    """Write single pages and texts."""
    (folder / "good.txt").write_text(article(20))
    (folder / "nested.html").write_bytes(NESTED)
    (folder / "noise.txt").write_bytes(NO_ENCODING)
    found.good.append("file:good.txt")
    found.bad["file:nested.html"] = (Stage.EXTRACTION, "nesting")
    found.bad["file:noise.txt"] = (Stage.READ, "encoding")
