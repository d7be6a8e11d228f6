"""Links and signals of pages, canonical URLs, and settings with their errors."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.errors import refused
from tests.training.corpus.crawl.memory_web import AGENT
from training.corpus.crawl import command
from training.corpus.crawl.host import retry_after
from training.corpus.crawl.page import (
    MAX_TAG_CHARS,
    SEARCHED_BYTES,
    parse_page,
    without_long_tags,
)
from training.corpus.crawl.robots import parse_robots
from training.corpus.crawl.settings import CrawlSettings
from training.corpus.crawl.sitemaps import parse_sitemap
from training.corpus.crawl.urls import canonical_url, is_private, is_repeating
from training.corpus.document import CorpusError


def hrefs(body: bytes, content_type: str = "text/html") -> list[str]:
    page = parse_page(body, content_type, "TestBot", frozenset())
    return [href for href, _ in page.links]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<a href=/a>x<A HREF='/b'>y<area href=/c><iframe src=/d></iframe>", "/a /b /c /d"),
        (b"<a>x</a><a name=y href='#z'>", ""),
        (b"<!-- <a href=/no> --><script>'<a href=/no>'</script><a href=/yes>", "/yes"),
        (b"<meta http-equiv=Refresh content='5; URL=/next'>", "/next"),
        (b"<meta http-equiv=refresh content=30>", ""),
        ("<a href='/é'>".encode("utf-16"), "/é"),
        (b"<a href=/a&amp;b><a href='/a&b'>", "/a&b"),
        (b"", ""),
        (b"\x00\x01", ""),
    ],
)
def test_links(body: bytes, expected: str) -> None:
    assert hrefs(body) == expected.split()


def test_overlong_tags_are_left_out() -> None:
    attributes = " ".join(f"a{number}=1" for number in range(100_000))
    image = f"<img src='data:image/png;base64,{'A' * 10_000}'>"
    html = f"<a href=/1><p {attributes}>{image}{'text ' * 2000}<a href=/2><b {attributes}"
    assert hrefs(html.encode()) == ["/1", "/2"]
    parts = without_long_tags(html).split("<")
    assert max(len(part) for part in parts if not part.startswith("wbr")) <= MAX_TAG_CHARS
    assert without_long_tags("a < b " * 1000) == "a < b " * 1000


def test_links_are_searched_in_the_beginning_of_a_page() -> None:
    body = b"<a href=/1>" + b"x" * SEARCHED_BYTES + b"<a href=/2>"
    page = parse_page(body, "", "TestBot", frozenset())
    assert page.links == (("/1", False),)
    assert f"{SEARCHED_BYTES:,}" in page.cut


PIECES = (
    *(b'<a href="', b"'>", b"<base href=", b"<meta name=robots content=", b"<svg:a ", b"&#xD800;"),
    *(
        b"<?xml ",
        b"<!DOCTYPE ",
        b"<![CDATA[",
        b"\x00",
        b"\xff\xfe",
        b"\x1f\x8b\x08",
        b"http://",
        b"[",
    ),
    *(b"<urlset><url><loc>", b"</loc></url>", b"User-agent: *\nCrawl-delay: ", b"nan\n", b"-1\n"),
    *(b"Disallow: /*$\n", b"Sitemap: ", b"%", b"charset=zip", b":99999", b"//"),
)
CHARSETS = ("utf-8", "utf-16", "zip", "idna", "punycode", "undefined", "unicode_escape", "none")


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=20).map(b"".join),
    st.sampled_from(CHARSETS),
)
# Each was an unexpected error of a parser.
@example(b"<a href=/a>", "zip")
@example(b"<svg:a ", "utf-8")
@example(b"<url><loc>&#xD800;", "utf-8")
def test_no_content_is_an_unexpected_error(body: bytes, charset: str) -> None:
    page = parse_page(body, f"text/html; charset={charset}", "TestBot", frozenset())
    for href, _ in page.links:
        if url := canonical_url(href, "http://h/a", page.encoding):
            assert canonical_url(url) == url
            assert url.isascii()
    parse_sitemap(body)
    rules = parse_robots(body, "TestBot")
    rules.allows("http://h/x?y", "TestBot")
    assert rules.delay_seconds >= 0


@pytest.mark.parametrize(
    ("url", "base", "expected"),
    [
        ("HTTP://Ex.ORG:80/a/../b/./c?x=1&utm_source=q&y=%7e#f", "", "http://ex.org/b/c?x=1&y=~"),
        ("../x y/é?q=é", "http://h/a/b/c", "http://h/a/x%20y/%C3%A9?q=%C3%A9"),
        ("http://user:secret@h:8080/..", "", "http://h:8080/"),
        ("//o.test./x", "https://h/", "https://o.test/x"),
        ("?b=2&a=1&a=0", "http://h/p", "http://h/p?b=2&a=1&a=0"),
        ("http://münchen.test/", "", "http://xn--mnchen-3ya.test/"),
        ("http://h/%2e%2e/a%2fb/", "", "http://h/a%2Fb/"),
        ("/a;jsessionid=12?PHPSESSID=1", "http://h/", "http://h/a"),
        ("/a/b/..", "http://h/", "http://h/a/"),
        ("\ud800", "http://h/", None),
        ("http://h:99999/", "", None),
        ("http://[::1", "", None),
        ("file:///etc/passwd", "", None),
        ("/" + "x" * 2000, "http://h/", None),
        ("http://", "", None),
    ],
)
def test_canonical_url(url: str, base: str, expected: str | None) -> None:
    assert canonical_url(url, base) == expected
    if expected:
        assert canonical_url(expected) == expected


def test_repeating_paths_and_private_addresses() -> None:
    assert is_repeating("http://h/a/b/a/b/a/b/a/b/c")
    assert not is_repeating("http://h/2024/01/01/01/x")
    private = ("127.0.0.1", "[::1]", "10.1.2.3", "169.254.169.254", "::ffff:192.168.0.1", "0.0.0.0")
    assert all(map(is_private, private))
    assert not any(map(is_private, ("8.8.8.8", "2606:4700::1111", "example.org")))


def test_metadata_of_clouds_and_addresses_that_stand_for_others_are_private() -> None:
    chart = Path("charts/thumbwheel/templates/_egress.tpl").read_text()
    rule = chart.split('define "thumbwheel.everyAddress"')[1].split("end -")[0]
    listed = re.findall(r"[\w:.]+(?=/\d+\b)", "".join(re.findall(r"except: \[.*\]", rule)))
    assert {"168.63.129.16", "fe80::"} < set(listed)
    others = ("192.0.0.192", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1", "2002:a9fe:a9fe::1")
    for address in (*listed, *others, "fec0::1", "::ffff:168.63.129.16"):
        assert is_private(address), address


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0), ("", None), ("soon", None)],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value) == seconds


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("--agent", {"agent": "Bot/1.0"}),
        ("--agent", {"agent": "(https://example.org)"}),
        ("--agent", {"agent": "Bot a@b.example\r\nX: y"}),
        ("--seeds", {"seeds": ()}),
        ("--seeds", {"seeds": ("ftp://h/",)}),
        ("--depth", {"depth": -1}),
        ("--delay", {"delay_seconds": float("nan")}),
        ("--pages", {"pages": 0}),
    ],
)
def test_wrong_settings_are_named(field: str, given: dict[str, Any]) -> None:
    with refused(CorpusError, field=field) as caught:
        CrawlSettings(**{"seeds": ("http://h/",), "agent": AGENT, **given})
    assert caught.value.limit


def test_seed_files(tmp_path: Path) -> None:
    file = tmp_path / "seeds"
    file.write_text("# first\nhttp://a.test/\n\nhttp://b.test/x\n")
    assert command.read_seeds([str(file), "http://c.test/"]) == (
        "http://a.test/",
        "http://b.test/x",
        "http://c.test/",
    )
    file.write_text("http://a.test/\nno url\n")
    with refused(CorpusError, field=f"{file}:2"):
        command.read_seeds([str(file)])
    with refused(CorpusError, field="--seeds"):
        command.read_seeds([str(tmp_path / "missing")])


def test_folder_belongs_to_one_crawl(tmp_path: Path) -> None:
    with (
        command.locked(tmp_path),
        refused(CorpusError, field="--out", reason="BUSY"),
        command.locked(tmp_path),
    ):
        pass
    settings = CrawlSettings(("http://h/",), AGENT)
    other = CrawlSettings(("http://h/",), AGENT, depth=3)
    stored = command.identity_text(settings)
    command.check_identity(stored, settings, tmp_path)
    with refused(CorpusError, field="--depth", reason="MISMATCH", limit="20"):
        command.check_identity(stored, other, tmp_path)


def test_options_have_the_defaults_of_the_settings() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = parser.parse_args(["--seeds", "http://h/", "--out", "x", "--agent", AGENT])
    assert command.settings_of(options) == CrawlSettings(("http://h/",), AGENT)


def test_contact_is_part_of_the_user_agent(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--seeds", "http://h/", "--out", "x"]
    with pytest.raises(SystemExit):
        parser.parse_args(given)
    assert "--contact" in capsys.readouterr().err
    for contact in ("ops@example.org", "https://example.org/bot"):
        settings = command.settings_of(parser.parse_args([*given, "--contact", contact]))
        assert (settings.agent, settings.product) == (f"Thumbwheel (+{contact})", "Thumbwheel")
    with refused(CorpusError, field="--contact"):
        command.settings_of(parser.parse_args([*given, "--contact", "nobody"]))
