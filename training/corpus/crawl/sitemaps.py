"""Sitemaps (sitemaps.org): lists of pages and indexes of lists, in XML or text, perhaps gzipped."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

from lxml import etree

# Limits of the protocol for one sitemap.
MAX_ENTRIES = 50_000
MAX_SITEMAP_BYTES = 50 << 20
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Sitemap:
    """Content of a sitemap.

    Attributes:
        pages: URLs of pages.
        sitemaps: URLs of other sitemaps, from an index.
        cut: limit or error that ended the reading; "" if all was read.
    """

    pages: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    cut: str = ""


def parse_sitemap(body: bytes) -> Sitemap:
    """Return the entries of a sitemap up to the limits or the first error."""
    cut = ""
    if body.startswith(GZIP_MAGIC):
        body, cut = _unpack(body)
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        lines = [line.strip() for line in body.decode("utf-8", "replace").splitlines()]
        pages = [line for line in lines if line.startswith(("http://", "https://"))]
        if len(pages) > MAX_ENTRIES:
            cut = f"more than {MAX_ENTRIES:,} entries"
        return Sitemap(tuple(pages[:MAX_ENTRIES]), cut=cut)
    sitemaps: list[str] = []
    pages = []
    try:
        # Entities stay unresolved and nothing is loaded, so the file cannot name other files.
        events = etree.iterparse(
            io.BytesIO(body), events=("end",), resolve_entities=False, no_network=True
        )
        for _, element in events:
            name = local_name(element)
            parent = element.getparent()
            if name == "loc" and parent is not None and element.text:
                kind = local_name(parent)
                if kind in ("url", "sitemap"):
                    (pages if kind == "url" else sitemaps).append(element.text.strip())
                if len(pages) + len(sitemaps) > MAX_ENTRIES:
                    cut = f"more than {MAX_ENTRIES:,} entries"
                    break
            elif name in ("url", "sitemap"):
                element.clear()
    except etree.XMLSyntaxError:
        cut = "malformed XML"
    return Sitemap(tuple(pages[:MAX_ENTRIES]), tuple(sitemaps[:MAX_ENTRIES]), cut)


def local_name(element: etree._Element) -> str:
    """Return the tag without namespace; "" for comments and processing instructions."""
    # lxml's QName refuses tags that its lenient parser lets pass.
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _unpack(body: bytes) -> tuple[bytes, str]:
    """Return a gzipped file up to the size limit, and the reason of an early end."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(body, MAX_SITEMAP_BYTES)
    except zlib.error:
        return b"", "malformed gzip"
    if unpacker.unconsumed_tail:
        return found, f"more than {MAX_SITEMAP_BYTES:,} bytes"
    return found, "" if unpacker.eof else "truncated gzip"
