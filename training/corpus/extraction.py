"""Main content of pages as text.

Extraction is native code on input of strangers; `GuardedExtractor` in `extraction_guard` runs it in
a process of its own with limits.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from enum import StrEnum

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_mime
from resiliparse.parse.html import HTMLTree

from training.corpus.charset import charset_of, decode
from training.corpus.document import CorpusError, Document, Page, Stage, Verdict

# Common Crawl stores at most this much of a page since March 2025.
MAX_PAGE_BYTES = 5 << 20
# Depth at which Chromium's parser stops to nest elements (kMaximumHTMLParserDOMTreeDepth).
# resiliparse needs time in proportion to the square of the depth: 10,000 elements take a second.
MAX_DEPTH = 512
DEEP_ELEMENT = ">".join(["*"] * (MAX_DEPTH + 1))
SNIFFED_BYTES = 4096

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
PLAIN_TYPE = "text/plain"
# Types that servers send for any file.
UNSPECIFIC_TYPES = frozenset({"", "application/octet-stream", "unknown/unknown", "text"})
MEDIA_TYPE = re.compile(r"[a-z0-9.+*-]{1,60}/[a-z0-9.+*-]{1,80}")
# Types by content of pages: detect_mime takes many kinds of text for the last.
PAGE_SIGNATURES = ("text/", "application/xhtml+xml", "application/xml", "application/octet-stream")
# Formats that begin with readable text. A text about BMW begins like a BMP image, so that other
# signatures count only beside control characters.
READABLE_SIGNATURES = ("application/pdf", "application/postscript", "application/rtf")
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
MARKUP = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|meta|p|div|h[1-6]|table|a\s)\b", re.IGNORECASE
)


class Extractor(StrEnum):
    """Libraries that find the main content of a page."""

    RESILIPARSE = "resiliparse"
    TRAFILATURA = "trafilatura"


@dataclass(frozen=True, slots=True)
class ExtractionOptions:
    """Settings of the extraction.

    Attributes:
        extractor: trafilatura keeps less boilerplate and takes twenty times as long.
        main_content: leave out navigation, sidebars and footers; only resiliparse can keep them.
        max_page_bytes: limit per page.

    Raises:
        CorpusError: the extractor is not installed.
    """

    extractor: Extractor = Extractor.RESILIPARSE
    main_content: bool = True
    max_page_bytes: int = MAX_PAGE_BYTES

    def __post_init__(self) -> None:
        if self.extractor == Extractor.TRAFILATURA and not importlib.util.find_spec("trafilatura"):
            raise CorpusError(
                "extractor: trafilatura is not installed; run pip install trafilatura"
                " lxml_html_clean in this environment",
                field="extractor",
                reason="UNAVAILABLE",
                limit=str(Extractor.RESILIPARSE),
            )


def extract(page: Page, options: ExtractionOptions | None = None) -> Document | Verdict:
    """Return the text of a page, or the reason why there is none."""
    options = options or ExtractionOptions()
    if (size := len(page.content)) > options.max_page_bytes:
        return _dropped("page size", f"{size} bytes (at most {options.max_page_bytes})")
    media_type = page.content_type.partition(";")[0].strip().lower()
    start = page.content[:SNIFFED_BYTES]
    signature = detect_mime(start)
    if not signature.startswith(PAGE_SIGNATURES) and (
        signature in READABLE_SIGNATURES or CONTROL.search(start)
    ):
        return _dropped("content type", signature)
    if media_type in UNSPECIFIC_TYPES:
        has_markup = MARKUP.search(start) is not None
        media_type = "text/html" if has_markup else PLAIN_TYPE
    if media_type not in HTML_TYPES and media_type != PLAIN_TYPE:
        named = media_type if MEDIA_TYPE.fullmatch(media_type) else "malformed"
        return _dropped("content type", named)
    is_html = media_type in HTML_TYPES
    text = decode(page.content, charset_of(page.content_type), is_html)
    if text is None:
        return _dropped("encoding", "no known encoding")
    if is_html:
        extracted = _extract_html(text, options)
        if isinstance(extracted, Verdict):
            return extracted
        text = extracted
    if not text.strip():
        return _dropped("empty text")
    return Document(page.origin, text)


def _extract_html(html: str, options: ExtractionOptions) -> str | Verdict:
    tree = HTMLTree.parse(html)
    # A selector of native code: 0.1 ms on a usual page.
    if tree.document is not None and tree.document.query_selector(DEEP_ELEMENT) is not None:
        return _dropped("nesting", f"above {MAX_DEPTH} levels")
    if options.extractor == Extractor.TRAFILATURA:
        trafilatura = importlib.import_module("trafilatura")
        # Its option `deduplicate` makes a result depend on the pages before.
        return trafilatura.extract(html, favor_precision=True, deduplicate=False) or ""
    return extract_plain_text(
        tree, preserve_formatting=True, main_content=options.main_content, alt_texts=False
    )


def _dropped(rule: str, value: str = "") -> Verdict:
    return Verdict(Stage.EXTRACTION, rule, value)
