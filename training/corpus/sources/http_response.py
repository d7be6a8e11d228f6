"""HTTP responses as WARC records hold them: head, transfer coding and content codings."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastwarc.stream_io import BrotliReader

from training.corpus.document import Stage, Verdict

HEAD_BYTES = 64 << 10
# RFC 9110 §8.4; servers nest at most a few.
MAX_CODINGS = 4
STEP_BYTES = 64 << 10

STATUS_LINE = re.compile(rb"HTTP/\d+(?:\.\d+)?[ \t]+(\d{3})\b")
HEAD_END = re.compile(rb"\r?\n\r?\n")
CHUNK_HEAD = re.compile(rb"(?:\r?\n)?([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]{0,1000})?\r?\n")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The payload of a successful response, without transfer and content codings.

    Attributes:
        content_type: value of the header; "" if absent.
    """

    content: bytes
    content_type: str


def parse_headers(lines: Iterable[bytes]) -> dict[str, str]:
    """Return headers by lower-case name; the first of equal names counts, lines without ":" none.

    Folded lines (RFC 9112 §5.2) are joined with their header.
    """
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (b" ", b"\t") and name:
            headers[name] += " " + line.strip().decode("utf-8", "replace")
            continue
        key, colon, value = line.partition(b":")
        if not colon:
            continue
        name = key.strip().lower().decode("utf-8", "replace")
        headers.setdefault(name, value.strip().decode("utf-8", "replace"))
    return headers


def parse_response(block: bytes, max_bytes: int) -> HttpResponse | Verdict:
    """Return the response in the block of a WARC record, or the reason why there is none.

    Args:
        max_bytes: limit on the decoded content.
    """
    head_end = HEAD_END.search(block, 0, HEAD_BYTES)
    status = STATUS_LINE.match(block)
    if status is None:
        return Verdict(Stage.READ, "http head", "no status line")
    if head_end is None and len(block) > HEAD_BYTES:
        return Verdict(Stage.READ, "http head", f"above {HEAD_BYTES} bytes")
    if not 200 <= int(status[1]) <= 299:
        return Verdict(Stage.READ, "http status", f"{int(status[1])} (200 to 299)")
    head, content = (
        (block[: head_end.start()], block[head_end.end() :]) if head_end else (block, b"")
    )
    headers = parse_headers(head.splitlines()[1:])
    decoded = decode_content(content, headers, max_bytes)
    if isinstance(decoded, Verdict):
        return decoded
    if not decoded:
        return Verdict(Stage.READ, "empty body")
    return HttpResponse(decoded, headers.get("content-type", ""))


def decode_content(content: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes | Verdict:
    """Undo the transfer and content codings that the headers name.

    Crawlers store contents with or without codings and often keep the headers in both cases, so
    content that does not begin as coded data is taken as it is. Of cut data the beginning is kept.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        content = _join_chunks(content)
    names = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    if len(names) > MAX_CODINGS:
        return Verdict(Stage.READ, "content codings", f"{len(names)} (at most {MAX_CODINGS})")
    for name in reversed(names):
        if name in ("gzip", "x-gzip", "deflate"):
            content = _inflate(content, max_bytes + 1)
        elif name == "br":
            content = _decode_brotli(content, max_bytes + 1)
        if len(content) > max_bytes:
            break
    if len(content) > max_bytes:
        return Verdict(Stage.READ, "content size", f"above {max_bytes} bytes when decoded")
    return content


def _join_chunks(content: bytes) -> bytes:
    parts: list[bytes] = []
    place = 0
    while head := CHUNK_HEAD.match(content, place):
        size = int(head[1], 16)
        if not size:
            return b"".join(parts)
        parts.append(content[head.end() : head.end() + size])
        place = head.end() + size
    # Without a last chunk the content is cut, or it has no chunks at all.
    return b"".join(parts) if place >= len(content) and parts else content


def _inflate(content: bytes, limit: int) -> bytes:
    """Decode gzip or deflate; the latter exists with and without the header of zlib."""
    for bits in (47, -15):
        decoder = zlib.decompressobj(wbits=bits)
        parts: list[bytes] = []
        size = 0
        data = content
        try:
            while data and size < limit and not decoder.eof:
                parts.append(decoder.decompress(data, limit - size))
                size += len(parts[-1])
                data = decoder.unconsumed_tail
        except zlib.error:
            if bits == -15:
                # Any bytes may begin like raw deflate; only data without an error is that.
                return content
        if size:
            return b"".join(parts)
    return content


def _decode_brotli(content: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    with BrotliReader(io.BytesIO(content)) as reader:
        try:
            while size < limit and (part := reader.read(min(STEP_BYTES, limit - size))):
                parts.append(part)
                size += len(part)
        except OSError:
            pass  # cut, or not brotli
    return b"".join(parts) or content
