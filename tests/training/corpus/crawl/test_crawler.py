"""A crawl follows the allowed links, obeys signals and limits, and names the fate of each URL."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.training.corpus.crawl.memory_web import SEED, Crawled, Web, crawl_into, page, reply
from training.corpus.crawl.archive import Position, read_bytes
from training.corpus.crawl.command import refusals_of
from training.corpus.crawl.download import FetchError, Response
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Frontier
from training.corpus.crawl.settings import Signal

ROBOTS = "/robots.txt"


def crawl(folder: Path, pages: dict[str, Any], **given: Any) -> Crawled:
    return crawl_into(folder, Web(pages), **given)


def test_links_are_followed_until_no_new_page_is_reachable(tmp_path: Path) -> None:
    pages = {
        "/": page("a", "/b/?utm_source=x", "#top", "mailto:a@b.example"),
        "/a": page("/", "b/../c", "HTTP://SITE.test:80/a#part"),
        "/b/": page("../a", "http://other.test/", "ftp://site.test/", "http://[broken"),
        "/c": page("/missing"),
    }
    web = Web(pages)
    done = crawl_into(tmp_path, web)
    assert done.fates == {
        **dict.fromkeys(("/", "/a", "/b/", "/c"), "stored"),
        "/missing": "http status",
        "http://other.test/": "off host",
        "http://[broken": "invalid url",
    }
    assert len(set(web.pages_requested)) == len(web.pages_requested) == 5
    assert done.rows["/missing"]["value"] == "404"
    assert (done.rows["/c"]["depth"], done.rows["/c"]["referrer"]) == (2, SEED + "a")


def test_hosts_widen_the_crawl(tmp_path: Path) -> None:
    pages = {
        "/": page("http://docs.site.test/", "http://other.test/", "http://xsite.test/"),
        "http://docs.site.test/": page(),
    }
    done = crawl(tmp_path, pages, hosts=("site.test", "*.site.test"))
    assert done.stored == {"/", "http://docs.site.test/"}
    assert done.fates["http://other.test/"] == done.fates["http://xsite.test/"] == "off host"


@pytest.mark.parametrize(
    ("head", "headers", "fate"),
    [
        ("<meta name=robots content='noindex'>", {}, "noindex"),
        ("<meta name=ROBOTS content='index, NoAI'>", {}, "noai"),
        ("<meta name=testbot content='none'>", {}, "noindex"),
        ("<meta name=otherbot content='noindex'>", {}, "stored"),
        ("<meta name=tdm-reservation content=1>", {}, "tdm"),
        ("", {"X_Robots_Tag": "noimageai"}, "noai"),
        ("", {"X_Robots_Tag": "otherbot: noindex, noai"}, "stored"),
        ("", {"X_Robots_Tag": "unavailable_after: 1 Jan 2020, noindex"}, "noindex"),
        ("", {"X_Robots_Tag": "otherbot: noai, testbot: noindex"}, "noindex"),
        ("", {"TDM_Reservation": "1"}, "tdm"),
        ("<meta name=robots content='all'>", {}, "stored"),
    ],
)
def test_opt_out_signals(tmp_path: Path, head: str, headers: dict[str, str], fate: str) -> None:
    pages = {"/": page("/a"), "/a": page("/b", head=head, **headers), "/b": page()}
    assert crawl(tmp_path, pages).fates["/a"] == fate
    ignored = crawl(tmp_path / "ignored", pages, obey=frozenset())
    assert ignored.stored == {"/", "/a", "/b"}


def test_nofollow_of_a_page_and_of_a_link(tmp_path: Path) -> None:
    pages = {
        "/": reply(
            200,
            '<a rel="x nofollow" href=/a></a><a rel=nofollow href=/b></a><a href=/c></a>',
            content_type="text/html",
        ),
        "/b": page(),
        "/c": page("/d", "/b", head="<meta name=robots content=nofollow>"),
        "/d": page(),
    }
    done = crawl(tmp_path, pages)
    assert done.fates == {"/": "stored", "/a": "nofollow", "/b": "nofollow", "/c": "stored"}
    pages["/c"] = page("/b")
    later = crawl(tmp_path / "later", pages)
    assert later.fates["/b"] == "stored", "another link to the same page is followed"
    kept = crawl(tmp_path / "kept", pages, obey=frozenset(Signal) - {Signal.NOFOLLOW})
    assert kept.fates["/a"] == "http status"


def test_robots_rules_and_sitemaps_of_robots(tmp_path: Path) -> None:
    rules = "User-agent: *\nDisallow: /\n\nUser-agent: testbot\nDisallow: /no\nSitemap: /s.xml"
    listed = (
        "<urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>"
        "<url><loc> {} </loc></url></urlset>"
    )
    pages = {
        ROBOTS: reply(200, rules),
        "/": page("/no", "/yes", "/no/more"),
        "/yes": page(),
        "/s.xml": reply(200, listed.format(SEED + "listed")),
        "/listed": page(),
    }
    web = Web(pages)
    done = crawl_into(tmp_path, web)
    assert done.fates == {
        **dict.fromkeys(("/", "/yes", "/listed"), "stored"),
        **dict.fromkeys(("/no", "/no/more"), "robots"),
        "/s.xml": "sitemap",
    }
    assert not [url for url in web.pages_requested if "/no" in url]


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        (reply(404), "stored"),
        (reply(403), "stored"),
        (reply(500), "robots unreachable"),
        (reply(503), "robots unreachable"),
        (reply(301, location="http://other.test/robots.txt"), "robots unreachable"),
        (reply(301, location=ROBOTS), "robots unreachable"),
        (FetchError(Fate.TIMEOUT, "5 s"), "robots unreachable"),
        (reply(200, b"\xff\xfe\x00" * 9), "stored"),
        (reply(200, "User-agent: *\nCrawl-delay: 86400"), "host busy"),
    ],
)
def test_errors_of_robots_txt(tmp_path: Path, answer: Any, fate: str) -> None:
    done = crawl(tmp_path, {ROBOTS: answer, "/": page()})
    assert done.fates == {"/": fate}


def test_first_requests_wait_for_robots_txt(tmp_path: Path) -> None:
    seeds = tuple(f"{SEED}private/{number}" for number in range(8))
    pages = {
        ROBOTS: reply(200, "User-agent: *\nDisallow: /private"),
        **dict.fromkeys(seeds, page()),
    }
    web = Web(pages, seconds=(1, 2))
    done = crawl_into(tmp_path, web, seeds, concurrency=8)
    assert set(done.fates.values()) == {"robots"}
    assert not web.pages_requested


def test_delay_between_requests(tmp_path: Path) -> None:
    pages = {"/": page(*"abcdefgh"), **{f"/{name}": page() for name in "abcdefgh"}}
    web = Web(pages, seconds=(0, 3))
    crawl_into(tmp_path, web, delay_seconds=2.0, concurrency=4)
    times = sorted(time for _, time in web.requests)
    assert min(after - before for before, after in pairwise(times)) > 1.999
    pages[ROBOTS] = reply(200, "User-agent: *\nCrawl-delay: 7")
    web = Web(pages, seconds=(0, 30))
    done = crawl_into(tmp_path / "slow", web, concurrency=4)
    times = sorted(time for _, time in web.requests)
    assert min(after - before for before, after in pairwise(times)) > 6.999
    assert len(done.stored) == 9


def test_concurrency_of_a_host_and_in_total(tmp_path: Path) -> None:
    names = [f"/{number}" for number in range(30)]
    pages: dict[str, Any] = {"/": page(*names), **dict.fromkeys(names, page())}
    web = Web(pages, seconds=(1, 1))
    crawl_into(tmp_path, web, concurrency=3)
    times = [time for _, time in web.requests]
    assert max(times.count(time) for time in times) == 3


def test_redirects(tmp_path: Path) -> None:
    pages: dict[str, Any] = {
        "/": page("/old", "/loop", "/out", "/0", "/bad"),
        "/old": reply(301, location="/new#top"),
        "/new": page(),
        "/loop": reply(302, location="/loop2"),
        "/loop2": reply(307, location="/loop"),
        "/out": reply(308, location="http://other.test/"),
        "/bad": reply(302, location="javascript:x"),
        **{f"/{hop}": reply(302, location=f"/{hop + 1}") for hop in range(100)},
    }
    done = crawl(tmp_path, pages)
    assert done.stored == {"/", "/new"}
    assert done.rows["/old"]["value"] == SEED + "new"
    assert done.fates["/loop"] == done.fates["/loop2"] == done.fates["/9"] == "redirect"
    assert done.fates["http://other.test/"] == "off host"
    assert done.fates["/bad"] == "http status"
    assert done.fates["/11"] == "redirect limit"
    assert "/12" not in done.fates


def test_reason_of_a_seed_is_that_of_the_page_to_which_it_leads(tmp_path: Path) -> None:
    pages = {
        "/": reply(301, location="/moved"),
        "/moved": reply(301, location="http://other.test/"),
        "/loop": reply(301, location="/loop"),
        "/secret": page(head="<meta name=robots content=noindex>"),
        "/gone": reply(404),
    }
    seeds = (f"{SEED}#top", *(SEED + name for name in ("loop", "secret", "gone")))
    crawl_into(tmp_path, Web(pages), seeds)
    with closing(Frontier(tmp_path)) as frontier:
        lines = list(refusals_of([*seeds, *seeds * 5], frontier))
    assert lines[:4] == [
        f"{SEED}#top, leads to http://other.test/: off host (allow: --hosts)",
        f"{SEED}loop: redirect: {SEED}loop",
        f"{SEED}secret: noindex (allow: --ignore noindex)",
        f"{SEED}gone: http status: 404",
    ]
    assert (len(lines), lines[-1].split()[:2]) == (21, ["4", "more"])


def test_canonical_urls(tmp_path: Path) -> None:
    def named(url: str) -> str:
        return f"<link rel=canonical href='{url}'>"

    pages: dict[str, Any] = {
        "/": page("/print", "/x", "/y", "/lost", "/self", "/out", "/chain", "/hidden"),
        "/print": page(head=named("/main")),
        "/main": page(head=named("/main")),
        "/x": page(head=named("/y")),
        "/y": page(head=named("/x")),
        "/lost": page(head=named("/gone")),
        "/self": page(head=named("/self#a")),
        "/out": page(head=named("http://other.test/")),
        "/chain": page(head=named("/print")),
        "/hidden": page(head=named("/noindex")),
        "/noindex": page(head="<meta name=robots content=noindex>"),
    }
    done = crawl(tmp_path, pages)
    assert done.fates["/print"] == done.fates["/chain"] == "canonical duplicate"
    assert done.rows["/print"]["value"] == SEED + "main"
    assert sorted((done.fates["/x"], done.fates["/y"])) == ["canonical duplicate", "stored"]
    kept = {"/", "/main", "/lost", "/self", "/out", "/hidden"}
    assert done.stored - {"/x", "/y"} == kept
    assert done.fates["/gone"] == "http status"


def test_sitemaps_are_bounded(tmp_path: Path) -> None:
    index = "<sitemapindex>{}</sitemapindex>"
    entry = "<sitemap><loc>{}</loc></sitemap>"
    entries = ("/sitemap.xml", "/loop.xml", "/pages.xml.gz", "/broken.xml", "/list.txt")
    urls = f"<url><loc>{SEED}a</loc></url><url><loc>http://other.test/</loc></url>"
    pages = {
        "/": page(),
        "/sitemap.xml": reply(200, index.format("".join(map(entry.format, entries)))),
        "/loop.xml": reply(200, index.format(entry.format("/sitemap.xml"))),
        "/pages.xml.gz": reply(200, gzip.compress(f"<urlset>{urls}</urlset>".encode())),
        "/broken.xml": reply(200, f"<urlset><url><loc>{SEED}b</loc></url><url><loc>"),
        "/list.txt": reply(200, f"{SEED}c\nnone\n"),
        **{f"/{name}": page() for name in "abc"},
    }
    done = crawl(tmp_path, pages)
    assert done.stored == {"/", "/a", "/b", "/c"}
    assert done.fates["http://other.test/"] == "off host"
    assert [done.fates[path] for path in entries[1:]] == ["sitemap"] * 4
    without = crawl(tmp_path / "without", pages, sitemaps=False)
    assert set(without.rows) == {"/"}


def test_refusals_are_obeyed(tmp_path: Path) -> None:
    answers = iter([reply(503, retry_after="40"), reply(429), page()])
    web = Web({"/": lambda _: next(answers)})
    assert crawl_into(tmp_path, web).stored == {"/"}
    first, second, third = web.times("/")
    assert second - first >= 40
    assert third - second >= 2, "the second refusal in a row doubles the wait"
    web = Web({"/": reply(503, retry_after="3600")})
    done = crawl_into(tmp_path / "long", web)
    assert done.fates == {"/": "host busy"}
    assert len(web.pages_requested) == 1
    web = Web({"/": page(*map(str, range(50))), **{f"/{one}": reply(503) for one in range(50)}})
    done = crawl_into(tmp_path / "always", web)
    assert list(done.fates.values()).count("host busy") > 40
    assert len(web.pages_requested) < 20


def test_requests_without_answer_are_repeated_and_then_given_up(tmp_path: Path) -> None:
    silent = FetchError(Fate.TIMEOUT, "5 s")
    answers = iter([silent, reply(500)])

    def late(_: object) -> Any:
        answer = next(answers, page())
        if isinstance(answer, FetchError):
            raise answer
        return answer

    dead = {f"/dead{number}": silent for number in range(50)}
    web = Web({"/": page("/late", "/cut"), "/late": late, "/cut": FetchError(Fate.TRUNCATED, "")})
    done = crawl_into(tmp_path, web)
    assert done.fates == {"/": "stored", "/late": "stored", "/cut": "truncated"}
    assert len(web.times("/cut")) == 3
    web = Web({"/": page(*dead), **dead})
    done = crawl_into(tmp_path / "dead", web, concurrency=1)
    fates = list(done.fates.values())
    assert (fates.count("timeout"), fates.count("host unreachable")) == (5, 45)


def test_infinite_pages_are_bounded(tmp_path: Path) -> None:
    class Calendar(dict[str, Any]):
        def get(self, url: str, default: Any = None) -> Any:
            if "/day/" in url:
                day = int(url.rsplit("/", 1)[1])
                return page(f"/day/{2 * day}", f"/day/{2 * day + 1}")
            return super().get(url, default)

    nested = {f"/{'a/' * number}": page("a/") for number in range(1, 20)}
    web = Web({"/": page("/day/1", "/a/"), **nested})
    web.pages = Calendar(web.pages)
    done = crawl_into(tmp_path, web, depth=5, host_pages=1000)
    assert done.fates["/a/a/a/a/"] == "repeating path"
    assert {row["depth"] for row in done.rows.values() if row["fate"] == "too deep"} == {6}
    assert len([path for path in done.stored if path.startswith("/day/")]) >= 31
    limited = crawl_into(tmp_path / "limited", web, depth=50, host_pages=100)
    assert len(limited.stored) == 100
    assert "host limit" in limited.fates.values()
    few = crawl_into(tmp_path / "few", web, pages=10)
    assert len(few.stored) == 10
    assert "page limit" in few.fates.values()


def test_page_types(tmp_path: Path) -> None:
    html = "<html><a href=/linked></a>"
    pages: dict[str, Any] = {
        "/": page("/pdf", "/none", "/text", "/xhtml", "/binary", "/empty"),
        "/pdf": reply(200, "%PDF", content_type="application/pdf"),
        "/none": reply(200, f"\n<!DOCTYPE html>{html}"),
        "/text": reply(200, "<a href=/plain></a>", content_type="Text/Plain"),
        "/xhtml": reply(200, html, content_type="application/xhtml+xml;charset=utf-8"),
        "/binary": reply(200, b"\x00\x01"),
        "/empty": reply(200, b"", content_type="text/html"),
        "/linked": page(),
    }
    done = crawl(tmp_path, pages)
    assert done.stored == {"/", "/none", "/text", "/xhtml", "/linked", "/empty"}
    assert (done.rows["/pdf"]["fate"], done.rows["/pdf"]["value"]) == (
        "content type",
        "application/pdf",
    )
    assert done.fates["/binary"] == "content type"


def test_private_addresses_are_refused(tmp_path: Path) -> None:
    for seed in (
        "http://127.0.0.1/",
        "http://[::1]:8080/",
        "http://169.254.169.254/",
        "http://10.0.0.1/",
    ):
        done = crawl_into(tmp_path / str(len(seed)) / seed[7:10], Web({seed: page()}), (seed,))
        assert set(done.fates.values()) == {"private address"}
    allowed = crawl_into(
        tmp_path, Web({"http://10.0.0.1/": page()}), ("http://10.0.0.1/",), private_addresses=True
    )
    assert len(allowed.stored) == 1


def random_site(draw: random.Random) -> dict[str, Any]:
    """Return a site with links, redirects, canonical URLs, errors and robots rules."""
    count = 60
    pages: dict[str, Any] = {ROBOTS: reply(200, "User-agent: *\nDisallow: /1")}
    for number in range(count):
        links = [f"/{draw.randrange(count)}" for _ in range(4)]
        kind = draw.random()
        if kind < 0.15:
            pages[f"/{number}"] = reply(302, location=links[0])
        elif kind < 0.35:
            pages[f"/{number}"] = page(*links, head=f"<link rel=canonical href='{links[1]}'>")
        elif kind > 0.1:
            pages[f"/{number}"] = page(*links)
    pages["/"] = page("/2", "/3", "/4", "/5")
    return pages


@pytest.mark.parametrize("seed", range(3))
def test_order_of_answers_and_crashes_do_not_change_the_result(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    limits: dict[str, Any] = {"concurrency": 4, "file_bytes": 2000}
    limits["host_pages"] = draw.choice([15, 1000])
    pages = random_site(draw)

    def fates(done: Crawled) -> dict[str, str]:
        return {path: f"{row['fate']} {row['value']}" for path, row in done.rows.items()}

    expected = crawl_into(tmp_path / "whole", Web(pages), **limits)
    assert len(expected.stored) >= 12
    for number in range(2):
        web = Web(pages, seconds=(0, 5), draw=draw)
        assert fates(crawl_into(tmp_path / f"{number}", web, **limits)) == fates(expected)
    folder = tmp_path / "crashed"
    crashes = 0
    while True:
        web = Web(pages, seconds=(0, 1.5), draw=draw, die_after=draw.randrange(6, 20))
        try:
            done = crawl_into(folder, web, **limits)
        except InterruptedError:
            crashes += 1
            continue
        break
    assert crashes >= 1
    assert fates(done) == fates(expected)
    assert done.archived == sorted(done.stored)


def test_recrawl_copies_unchanged_pages(tmp_path: Path) -> None:
    def tagged(*targets: str) -> Any:
        tag = repr(targets)

        def answer(headers: Mapping[str, str]) -> Response:
            if headers.get("If-None-Match") == tag:
                return reply(304)
            return page(*targets, etag=tag)

        return answer

    dated = "Sun, 29 Nov 2026 04:00:00 GMT"
    pages: dict[str, Any] = {
        "/": tagged("/same", "/other", "/gone", "/date"),
        "/same": tagged("/below"),
        "/other": tagged("/a"),
        "/gone": tagged("/b"),
        "/below": page(),
        "/date": lambda headers: (
            reply(304) if headers.get("If-Modified-Since") == dated else page(last_modified=dated)
        ),
    }
    first = crawl_into(tmp_path / "1", Web(pages))
    assert first.stored == {"/", "/same", "/other", "/gone", "/below", "/date"}
    pages |= {"/other": tagged("/new"), "/new": page(), "/gone": reply(410)}
    second = crawl_into(tmp_path / "2", Web(pages), previous=tmp_path / "1")
    assert second.fates == {
        **dict.fromkeys(("/", "/same", "/date"), "unchanged"),
        **dict.fromkeys(("/other", "/below", "/new"), "stored"),
        "/gone": "http status",
    }
    for path in ("/", "/same", "/date"):
        old, new = (
            read_bytes(done.folder, Position(*(row[name] for name in ("file", "offset", "length"))))
            for done, row in ((first, first.rows[path]), (second, second.rows[path]))
        )
        assert old == new
        assert first.rows[path]["fetched"] == second.rows[path]["fetched"]
