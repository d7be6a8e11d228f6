"""Extraction: main content, types, sizes, and pages that would hang or end the process."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from training.corpus.document import CorpusError, Document, Origin, Page, Stage, Verdict
from training.corpus.extraction import MAX_DEPTH, ExtractionOptions, Extractor, extract
from training.corpus.extraction_guard import GuardedExtractor

ORIGIN = Origin("0", "http://site.example/")
SENTENCE = "The main text of this page has several words. "
ARTICLE = (
    "<html><head><title>t</title><script>var x = 1;</script></head><body>"
    "<nav><ul><li><a href='/'>Home</a></li><li><a href='/b'>Products</a></li></ul></nav>"
    f"<article><h1>Heading</h1><p>{SENTENCE * 5}</p></article>"
    "<footer>Imprint and contact</footer></body></html>"
)

XHTML = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "xhtml1-strict.dtd">'
)


def page(content: bytes | str, content_type: str = "text/html; charset=utf-8") -> Page:
    return Page(ORIGIN, content.encode() if isinstance(content, str) else content, content_type)


def rule_of(result: Document | Verdict) -> str:
    assert isinstance(result, Verdict)
    assert result.stage == Stage.EXTRACTION
    return result.rule


def test_main_content_without_navigation():
    document = extract(page(ARTICLE))
    assert isinstance(document, Document)
    assert document.origin == ORIGIN
    assert document.text.count(SENTENCE.strip()) == 5
    assert "Heading" in document.text
    for part in ("Home", "Products", "Imprint", "var x"):
        assert part not in document.text


def test_all_text_by_setting():
    document = extract(page(ARTICLE), ExtractionOptions(main_content=False))
    assert isinstance(document, Document)
    assert "Imprint" in document.text


def test_encoding_of_the_header_is_used():
    html = "<html><body><p>" + "Все счастливые семьи похожи друг на друга. " * 3 + "</p></body>"
    document = extract(page(html.encode("koi8-r"), "text/html; charset=koi8-r"))
    assert isinstance(document, Document)
    assert "Все счастливые семьи" in document.text


@pytest.mark.parametrize(
    ("content", "content_type", "kept"),
    [
        (ARTICLE, "", True),
        (ARTICLE, "application/octet-stream", True),
        (ARTICLE, "application/xhtml+xml", True),
        (XHTML + ARTICLE, "text/html", True),
        (XHTML + ARTICLE, "", True),
        ("BMW and ID3 are names.", "text/plain", True),
        ("ID3 is an algorithm.", "", True),
        ("Plain words, <b>not</b> markup.", "text/plain", True),
        ("Plain words.", "", True),
        ("body { color: red }", "text/css", False),
        ('{"a": 1}', "application/json", False),
        ("%PDF-1.7 abc", "text/html", False),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "text/html", False),
        (b"\xff\xd8\xff\xe0" + bytes(50), "", False),
        (b"BM6\0\x0c\0\0\0\0" + b"abc" * 50, "text/plain", False),
        (b"PK\x03\x04" + bytes(50), "application/octet-stream", False),
        ("abc", "image/png; name=x", False),
        ("abc", "a secret text", False),
    ],
)
def test_types(content, content_type, kept):
    result = extract(page(content, content_type))
    if kept:
        assert isinstance(result, Document)
    else:
        assert rule_of(result) == "content type"
        assert "secret" not in result.value


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("<html><body></body></html>", "empty text"),
        ("<html><script>x</script></html>", "empty text"),
        (bytes(range(1, 256)) * 20, "encoding"),
        ("<div>" * 100_000 + "deep", "nesting"),
        ("<b><i><div>" * 100_000 + "deep", "nesting"),
        ("<table><tr><td>" * 30_000 + "deep", "nesting"),
        ("<p>" + "a" * (5 << 20), "page size"),
    ],
)
def test_wrong_pages_are_named(content, rule):
    assert rule_of(extract(page(content))) == rule


def test_usual_nesting_and_unclosed_elements_are_kept():
    nested = "<div>" * (MAX_DEPTH - 20) + SENTENCE + "</div>" * (MAX_DEPTH - 20)
    unclosed = "".join(f"<p>{SENTENCE}<br>" for _ in range(3000))
    assert isinstance(extract(page(nested)), Document)
    assert isinstance(extract(page(unclosed)), Document)


def test_trafilatura_is_named_if_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CorpusError) as caught:
        ExtractionOptions(Extractor.TRAFILATURA)
    assert caught.value.field == "extractor"
    assert caught.value.reason == "UNAVAILABLE"


def test_trafilatura_is_used_if_installed(monkeypatch):
    """A stand-in records the call: the library is no dependency."""
    calls = []
    module = ModuleType("trafilatura")
    module.extract = lambda html, **options: calls.append((html, options)) or "its text"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trafilatura", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: module)
    document = extract(page(ARTICLE), ExtractionOptions(Extractor.TRAFILATURA))
    assert isinstance(document, Document)
    assert document.text == "its text"
    [(html, options)] = calls
    assert html == ARTICLE
    assert options["deduplicate"] is False


@pytest.fixture(scope="module")
def guarded():
    with GuardedExtractor(processor_seconds=0.3) as extractor:
        yield extractor


def test_guarded_results_equal_direct_ones(guarded):
    for given in (
        page(ARTICLE),
        page("Все счастливые семьи".encode("koi8-r") * 20, "text/plain; charset=koi8-r"),
        page("", "text/plain"),
        page("%PDF-1.7", "text/html"),
        page("<p>" + "a" * (5 << 20)),
        page("abc", "t" * 5000),
    ):
        assert guarded(given) == extract(given)


def test_page_that_takes_too_long_is_named(guarded):
    attributes = " ".join(f"a{number}=b" for number in range(100_000))
    assert rule_of(guarded(page(f"<html><div {attributes}>text</div>"))) == "extraction time"
    assert guarded(page(ARTICLE)) == extract(page(ARTICLE))


def test_page_that_takes_too_much_memory_is_named():
    fonts = "".join(f"<font size={number}>" for number in range(3000))
    with GuardedExtractor(memory_bytes=300 << 20) as extractor:
        assert rule_of(extractor(page(f"<p>{fonts}{'<p>x' * 3000}"))) == "extraction memory"
        assert extractor(page(ARTICLE)) == extract(page(ARTICLE))


def test_ended_process_is_named_and_replaced(guarded):
    guarded(page(ARTICLE))
    guarded._process.kill()
    assert rule_of(guarded(page(ARTICLE))) == "extraction crash"
    assert guarded(page(ARTICLE)) == extract(page(ARTICLE))


def test_processor_time_of_ended_processes_counts(guarded):
    guarded(page(ARTICLE))
    before = guarded.seconds
    guarded._process.kill()
    guarded(page(ARTICLE))
    ended = guarded.seconds
    guarded(page(ARTICLE))

    assert 0 < before <= ended < guarded.seconds


def test_process_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with GuardedExtractor() as extractor, pytest.raises(CorpusError) as caught:
        extractor(page(ARTICLE))
    assert caught.value.reason == "UNAVAILABLE"
