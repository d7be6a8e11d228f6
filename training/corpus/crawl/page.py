"""Links, canonical URL and opt-out signals of an HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lxml import etree

from training.corpus.charset import charset_of, decode, query_codec
from training.corpus.crawl.settings import Signal

PAGE_TYPES = ("text/html", "application/xhtml+xml", "text/plain", "")
MAX_LINKS = 10_000
# Links and signals are searched in the beginning of a page only.
SEARCHED_BYTES = 2 << 20
# libxml2 takes seconds for a tag with 100,000 attributes. Longer tags are left out; most are images
# with their content in the URL.
MAX_TAG_CHARS = 2 << 10
TAG = re.compile("<[a-zA-Z]")
LINK_ATTRIBUTES = {"a": "href", "area": "href", "frame": "src", "iframe": "src"}
REFRESH = re.compile(r"\s*[\d.]*\s*[;,]\s*(?:url\s*=\s*)?['\"]?([^'\"\s]+)", re.IGNORECASE)
# Directives with a value after a colon; any other word before a colon names a crawler.
VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """Content of a page that determines the crawl.

    Attributes:
        links: target and "nofollow" of each link, without repetitions.
        base: value of the element base; "" without.
        canonical: value of the link with rel=canonical; "" without.
        signals: opt-out signals of the headers and the page.
        encoding: codec for the queries of the links.
        cut: limit that ended the search for links; "" if all were found.
    """

    links: tuple[tuple[str, bool], ...] = ()
    base: str = ""
    canonical: str = ""
    signals: frozenset[Signal] = frozenset()
    encoding: str = "utf-8"
    cut: str = ""


def parse_page(
    body: bytes, content_type: str, product: str, header_signals: frozenset[Signal]
) -> ParsedPage:
    """Return the links and signals of a page.

    Args:
        content_type: value of the HTTP header, which may name the charset.
        product: name of the crawler, for directives that address it alone.
        header_signals: signals of the HTTP headers.
    """
    searched = body[:SEARCHED_BYTES]
    encoding = query_codec(searched, content_type)
    text = decode(searched, charset_of(content_type), is_html=True) or ""
    # libxml2 ends at a depth of 256 elements unless `huge_tree` is set, which bounds its recursion.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=False, remove_comments=True)
    try:
        root = etree.fromstring(without_long_tags(text).encode("utf-8", "replace"), parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    if root is None:
        return ParsedPage(signals=header_signals, encoding=encoding)
    links: dict[str, bool] = {}
    signals = set(header_signals)
    base = canonical = cut = ""
    if len(body) > SEARCHED_BYTES:
        cut = f"links after the first {SEARCHED_BYTES:,} bytes are not followed"
    for element in root.iter("a", "area", "frame", "iframe", "base", "link", "meta"):
        name, rel = element.tag, (element.get("rel") or "").lower().split()
        if name == "meta":
            signals.update(meta_signals(element, product))
            if (element.get("http-equiv") or "").lower() == "refresh":
                found = REFRESH.match(element.get("content") or "")
                target = found[1] if found else ""
            else:
                continue
        elif name == "base":
            base = base or element.get("href") or ""
            continue
        elif name == "link":
            if "canonical" in rel:
                canonical = canonical or element.get("href") or ""
            continue
        else:
            target = element.get(LINK_ATTRIBUTES[name]) or ""
        if not target or target.startswith("#"):
            continue
        if len(links) == MAX_LINKS and target not in links:
            cut = f"links after the first {MAX_LINKS:,} are not followed"
            break
        links[target] = links.get(target, True) and "nofollow" in rel
    if any(entry.type == etree.ErrorTypes.ERR_RESOURCE_LIMIT for entry in parser.error_log):
        cut = "elements nested too deep are not searched for links"
    return ParsedPage(tuple(links.items()), base, canonical, frozenset(signals), encoding, cut)


def without_long_tags(text: str) -> str:
    """Return HTML without tags over the limit."""
    parts = text.split(">")
    for index, part in enumerate(parts):
        if len(part) > MAX_TAG_CHARS and (found := TAG.search(part)):
            start = found.start()
            if len(part) - start > MAX_TAG_CHARS:
                # The rest "<wbr" becomes an element without meaning for the search.
                parts[index] = part[:start] + "<wbr"
    return ">".join(parts)


def meta_signals(element: etree._Element, product: str) -> frozenset[Signal]:
    """Return the signals of a meta element."""
    name, content = (element.get("name") or "").lower(), element.get("content") or ""
    if name in ("robots", product.lower()):
        return directives(content.split(","))
    if name == "tdm-reservation" and content.strip() == "1":
        return frozenset({Signal.TDM})
    return frozenset()


def signals_of_headers(headers: Iterable[tuple[bytes, bytes]], product: str) -> frozenset[Signal]:
    """Return the signals of X-Robots-Tag and TDM-Reservation."""
    found: set[Signal] = set()
    for name, value in headers:
        text = value.decode("latin-1")
        if name.lower() == b"tdm-reservation" and text.strip() == "1":
            found.add(Signal.TDM)
        if name.lower() == b"x-robots-tag":
            # A crawler's name applies to the directives after it: "otherbot: noindex, nofollow".
            applies, words = True, []
            for word in text.split(","):
                before, colon, after = word.partition(":")
                if colon and before.strip().lower() not in VALUED:
                    applies, word = before.strip().lower() == product.lower(), after
                if applies:
                    words.append(word)
            found |= directives(words)
    return frozenset(found)


def directives(words: Iterable[str]) -> frozenset[Signal]:
    """Return the signals of the words of a robots directive."""
    found: set[Signal] = set()
    for word in words:
        match word.strip().lower():
            case "none":
                found |= {Signal.NOINDEX, Signal.NOFOLLOW}
            case "noindex":
                found.add(Signal.NOINDEX)
            case "nofollow":
                found.add(Signal.NOFOLLOW)
            case "noai" | "noimageai":
                found.add(Signal.NOAI)
    return frozenset(found)


def is_page_type(content_type: str) -> bool:
    """Return True if a response of a type may be a page; an absent type may."""
    return content_type.partition(";")[0].strip().lower() in PAGE_TYPES


def is_page(media_type: str, body: bytes) -> bool:
    """Return True for a page; without a type its beginning decides."""
    if media_type:
        return media_type in PAGE_TYPES
    return (
        body[:1024]
        .lstrip(b"\xef\xbb\xbf \t\r\n")[:14]
        .lower()
        .startswith((b"<!doctype html", b"<html"))
    )
