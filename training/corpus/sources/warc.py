"""Reader for WARC 1.0 and 1.1 (ISO 28500) and WET files.

Records of the types response, resource, conversion and revisit, and those of unknown types, give
items. fastwarc's iterator ends at the first damaged record and trusts each
Content-Length; this reader resumes after damage, so no other record is lost.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.corpus.charset import decode
from training.corpus.document import Document, Item, Origin, Page, Rejected, Stage, Verdict
from training.corpus.sources.config import SourceConfig
from training.corpus.sources.http_response import parse_headers, parse_response
from training.corpus.sources.members import MemberStream, open_members

# At the end of a line, because a record may end without one.
VERSION_LINE = re.compile(rb"WARC/\d+\.\d+\r?\n$")
SWALLOWED_RECORD = re.compile(rb"WARC/\d+\.\d+\r?\nWARC-")
PREFIX = b"WARC/"
LINE_BYTES = 16 << 10
HEAD_BYTES = 64 << 10
SKIP_BYTES = 1 << 20
BUFFER_BYTES = 256 << 10
# Longest URL that sitemaps and search engines accept is 2,048; browsers take more.
MAX_URL_CHARACTERS = 8192
MAX_DATE_CHARACTERS = 40
# Records about the crawl, which hold no document.
DESCRIPTIVE_TYPES = frozenset({"warcinfo", "request", "metadata"})


def read_warc(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield an item for each record with a document or for damaged data, in the order of the file.

    Responses and resources give pages, conversions (WET) give documents.
    """
    with open_members(file, prefix=PREFIX) as members:
        yield from _WarcReader(source, members).items()


class _WarcReader:
    def __init__(self, source: SourceConfig, members: MemberStream) -> None:
        self._source = source
        self._members = members
        self._stream = io.BufferedReader(members, BUFFER_BYTES)
        # A line that was read ahead.
        self._line = b""

    def items(self) -> Iterator[Item]:
        while self._members.next_member():
            yield from self._member_items()

    def _member_items(self) -> Iterator[Item]:
        """Yield the items of the current gzip member, or of the whole uncompressed file."""
        was_reported = False
        while line := self._next_line():
            was_reported = False
            if not VERSION_LINE.match(line):
                self._line = line
                skipped = self._skip_to_record()
                yield self._reject({}, "record header", f"{skipped} bytes outside of records")
                continue
            item = self._read_record(self._read_headers())
            was_reported = isinstance(item, Rejected) and self._is_at_end()
            if item is not None:
                yield item
        damage = self._members.damage
        if damage is not None and not was_reported:
            yield self._reject({}, damage.rule, damage.value)

    def _next_line(self) -> bytes:
        """Return the next line that is not empty, at most `LINE_BYTES` of it; b"" at the end."""
        line, self._line = self._line, b""
        while not line.strip():
            line = self._stream.readline(LINE_BYTES)
            if not line:
                return b""
        return line

    def _skip_to_record(self) -> int:
        """Skip everything up to the first line of a record; return the number of bytes."""
        skipped = 0
        line, self._line = self._line, b""
        while line := line or self._stream.readline(LINE_BYTES):
            if version := VERSION_LINE.search(line):
                self._line = version[0]
                return skipped + version.start()
            skipped += len(line)
            line = b""
        return skipped

    def _read_headers(self) -> dict[str, str]:
        """Read the headers of a record; empty if they are too long or the data ends in them."""
        lines: list[bytes] = []
        size = 0
        while (line := self._stream.readline(LINE_BYTES)) and line not in (b"\r\n", b"\n"):
            if version := VERSION_LINE.search(line):
                # The end of the headers is missing, and with it the block.
                self._line = version[0]
                return {**parse_headers(lines), "content-length": ""}
            lines.append(line)
            size += len(line)
            if size > HEAD_BYTES:
                return {}
        return parse_headers(lines) if line else {}

    def _read_record(self, headers: dict[str, str]) -> Item | None:
        """Read the block of a record and return its item; None for descriptive records."""
        try:
            length = int(headers["content-length"])
            if length < 0:
                raise ValueError
        except (KeyError, ValueError):
            self._skip_to_record()
            if (damage := self._members.damage) is not None and self._is_at_end():
                return self._reject(headers, damage.rule, damage.value)
            return self._reject(headers, "record header", "no valid length")
        limit = self._source.max_record_bytes
        start = self._stream.tell() if self._members.seekable() else 0
        block = self._stream.read(min(length, limit))
        found = len(block) + self._skip(length - len(block))
        if found < length or not self._ends_here(block):
            return self._resume(headers, start, length, found)
        if not self._line and (damage := self._members.damage) is not None:
            return self._reject(headers, damage.rule, damage.value)
        if headers.get("warc-type", "").lower() in DESCRIPTIVE_TYPES:
            return None
        if length > limit:
            return self._reject(headers, "record size", f"{length} bytes (at most {limit})")
        return _item(self._origin(headers), headers, block, limit)

    def _ends_here(self, block: bytes) -> bool:
        """Read ahead to the next record; False if the block ended at the wrong place."""
        empty_lines = 0
        while (line := self._stream.readline(LINE_BYTES)) in (b"\r\n", b"\n"):
            empty_lines += 1
        self._line = line
        # Some writers leave out the two empty lines after a record.
        if not line or VERSION_LINE.match(line):
            return True
        return empty_lines >= 2 and not SWALLOWED_RECORD.search(block)

    def _skip(self, size: int) -> int:
        left = size
        while left > 0 and (part := self._stream.read(min(left, SKIP_BYTES))):
            left -= len(part)
        return size - max(left, 0)

    def _resume(self, headers: dict[str, str], start: int, length: int, found: int) -> Rejected:
        """Go to the next record after a block with another length than the header says."""
        damage = self._members.damage
        if self._members.seekable():
            # The block may have swallowed further records.
            self._stream.seek(start)
            self._line = b""
        self._skip_to_record()
        if found == length:
            return self._reject(
                headers, "content length", f"{length} bytes, but the record is longer"
            )
        if damage is not None:
            return self._reject(headers, damage.rule, damage.value)
        return self._reject(headers, "truncated", f"{found} of {length} bytes")

    def _is_at_end(self) -> bool:
        return not self._line and not self._stream.peek(1)

    def _origin(self, headers: Mapping[str, str]) -> Origin:
        # wget writes URLs of WARC 1.0 in angle brackets, following an error of that standard.
        url = headers.get("warc-target-uri", "").removeprefix("<").removesuffix(">")
        return Origin(
            "",
            url[:MAX_URL_CHARACTERS],
            self._source.name,
            self._source.licence,
            headers.get("warc-date", "")[:MAX_DATE_CHARACTERS],
        )

    def _reject(self, headers: Mapping[str, str], rule: str, value: str) -> Rejected:
        return _rejected(self._origin(headers), rule, value)


def _rejected(origin: Origin, rule: str, value: str = "") -> Rejected:
    return Rejected(origin, Verdict(Stage.READ, rule, value))


def _item(origin: Origin, headers: Mapping[str, str], block: bytes, max_bytes: int) -> Item:
    """Return the page or document of an undamaged record."""
    kind, media = headers.get("warc-type", "").lower(), headers.get("content-type", "")
    if kind == "revisit":
        return _rejected(origin, "revisit", "content is in an earlier record")
    if kind not in ("response", "resource", "conversion"):
        return _rejected(origin, "record type", "without a document")
    if not origin.url:
        return _rejected(origin, "url", "missing")
    if len(origin.url) == MAX_URL_CHARACTERS:
        return _rejected(origin, "url", f"at least {MAX_URL_CHARACTERS} characters")
    if not block:
        return _rejected(origin, "empty body")
    if kind == "resource":
        return Page(origin, block, media)
    if kind == "conversion":
        text = decode(block, "utf-8")
        return _rejected(origin, "encoding") if text is None else Document(origin, text)
    if media and not media.lower().startswith("application/http"):
        return _rejected(origin, "record content type", "not application/http")
    response = parse_response(block, max_bytes)
    if isinstance(response, Verdict):
        return Rejected(origin, response)
    named = response.content_type or headers.get("warc-identified-payload-type", "")
    return Page(origin, response.content, named)
