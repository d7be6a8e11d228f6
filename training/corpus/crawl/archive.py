"""WARC files of a crawl: one response record for each page, each compressed alone by gzip."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from durable_files.files import sync_directory

PATTERN = "pages-{:05}.warc.gz"
COMPRESSION_LEVEL = 6
Headers = Sequence[tuple[bytes, bytes]]
# Headers of the transfer. The stored body is decompressed and in one piece.
TRANSFER_HEADERS = (b"content-encoding", b"content-length", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Position:
    """Place of a record: file name, offset and length in bytes, compressed."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ArchivedPage:
    """A page that was read back."""

    headers: Headers
    body: bytes


class Archive:
    """WARC files of a crawl, in order of writing.

    Args:
        folder: folder of the crawl.
        file_bytes: size after which the next file begins.
        agent: User-Agent header, stored in the record "warcinfo" of each file.
        robots: treatment of robots.txt, stored likewise.
    """

    def __init__(self, folder: Path, file_bytes: int, agent: str) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._agent = agent
        self._number = -1
        self._out: BinaryIO | None = None
        self._length = 0

    @property
    def end(self) -> tuple[str, int]:
        """Return the name and the length of the last file; ("", 0) without a file."""
        return (PATTERN.format(self._number), self._length) if self._out else ("", 0)

    def resume(self, file: str, length: int) -> None:
        """Cut off all after an end, and continue there.

        Args:
            file, length: value of `end`.
        """
        for path in sorted(self._folder.glob("pages-*.warc.gz")):
            if path.name > file:
                path.unlink()
        if file:
            self._number = int(file.split("-")[1].split(".")[0])
            os.truncate(self._folder / file, length)
            self._out = (self._folder / file).open("ab")
            self._length = length

    def append_page(
        self, url: str, status_line: str, headers: Headers, body: bytes, address: str
    ) -> Position:
        """Append a response record and return its place.

        Args:
            status_line: for example "HTTP/1.1 200 OK".
            body: decompressed body.
            address: IP address of the server; "" if unknown.
        """
        kept = [pair for pair in headers if pair[0].lower() not in TRANSFER_HEADERS]
        kept.append((b"Content-Length", str(len(body)).encode()))
        head = b"".join(b"%s: %s\r\n" % pair for pair in kept)
        extra = {"WARC-Target-URI": url}
        if address:
            extra["WARC-IP-Address"] = address
        block = status_line.encode("latin-1") + b"\r\n" + head + b"\r\n" + body
        return self._append(compressed_record(WarcRecordType.response, extra, block, is_http=True))

    def append_copy(self, folder: Path, position: Position) -> Position:
        """Append a record of an earlier crawl as it is, and return its place."""
        return self._append(read_bytes(folder, position))

    def _append(self, record: bytes) -> Position:
        if self._out is None or self._length >= self._file_bytes:
            self._begin_file()
        assert self._out is not None
        self._out.write(record)
        position = Position(PATTERN.format(self._number), self._length, len(record))
        self._length += len(record)
        return position

    def _begin_file(self) -> None:
        if self._out:
            self.flush()
            self._out.close()
        self._number += 1
        name = PATTERN.format(self._number)
        fields = (
            *("software: thumbwheel", "format: WARC File Format 1.1", "robots: obey"),
            "conformsTo: http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
            f"http-header-user-agent: {self._agent}",
        )
        block = "".join(f"{field}\r\n" for field in fields).encode()
        extra = {"WARC-Filename": name, "Content-Type": "application/warc-fields"}
        record = compressed_record(WarcRecordType.warcinfo, extra, block, is_http=False)
        self._out = (self._folder / name).open("wb")
        sync_directory(self._folder)
        self._out.write(record)
        self._length = len(record)

    def flush(self) -> None:
        """Write all records to disk."""
        if self._out:
            self._out.flush()
            os.fsync(self._out.fileno())

    def close(self) -> None:
        """Close the last file."""
        if self._out:
            self._out.close()


def compressed_record(
    kind: WarcRecordType, extra: dict[str, str], block: bytes, *, is_http: bool
) -> bytes:
    """Return a record with its digest as a gzip member."""
    record = WarcRecord()
    record.init_headers(kind)
    record.is_http = is_http
    # Whole seconds, as in the archives of Common Crawl; some readers accept no fraction.
    record.headers["WARC-Date"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, value in extra.items():
        record.headers[name] = value
    record.set_bytes_content(block)
    plain = io.BytesIO()
    record.write(plain, checksum_data=True)
    return gzip.compress(plain.getvalue(), COMPRESSION_LEVEL, mtime=0)


def read_bytes(folder: Path, position: Position) -> bytes:
    """Return a record as stored."""
    with (folder / position.file).open("rb") as file:
        file.seek(position.offset)
        return file.read(position.length)


def read_page(folder: Path, position: Position) -> ArchivedPage | None:
    """Return a page of an archive; None if the record is missing or damaged."""
    try:
        stored = read_bytes(folder, position)
    except FileNotFoundError:
        return None
    for record in ArchiveIterator(io.BytesIO(stored), WarcRecordType.response):
        pairs = tuple(
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in record.http_headers.items()
        )
        return ArchivedPage(pairs, record.reader.read())
    return None
