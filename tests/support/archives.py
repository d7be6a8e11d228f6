"""WARC records and archives as bytes, written by hand so that any part can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
UNDECLARED = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


def page_url(number: int) -> str:
    return f"http://site.example/{number}"


def page_text(number: int) -> bytes:
    words = " ".join(f"word{number * 31 + place}" for place in range(40))
    return f"<html><body><p>Page {number}: {words}.</p></body></html>".encode()


def warc_record(
    block: bytes,
    url: str | None = None,
    kind: str = "response",
    length: int | str | None = None,
    media: str = "application/http; msgtype=response",
    version: str = "1.0",
    headers: Sequence[str] = (),
) -> bytes:
    """Return a record; `length` replaces the true Content-Length."""
    lines = [
        f"WARC/{version}",
        f"WARC-Type: {kind}",
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>",
        "WARC-Date: 2026-01-02T03:04:05Z",
        *([f"WARC-Target-URI: {url}"] if url is not None else []),
        f"Content-Type: {media}",
        *headers,
        f"Content-Length: {len(block) if length is None else length}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def response_record(
    number: int,
    content: bytes | None = None,
    head: bytes = HEAD,
    **changes: object,
) -> bytes:
    """Return the record of a response for the page with the number."""
    block = head + b"\r\n" + (page_text(number) if content is None else content)
    return warc_record(block, page_url(number), **changes)  # type: ignore[arg-type]


def gzip_members(records: Sequence[bytes]) -> list[bytes]:
    """Compress each record as a member, as Common Crawl does."""
    return [gzip.compress(record, 6, mtime=0) for record in records]
