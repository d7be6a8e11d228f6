"""The crawler as a process against servers on loopback: traps, kills, robots.txt and WARC files."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from fastwarc.warc import ArchiveIterator, WarcRecordType

from infra.machine.certificates.authority import Authority, write_pair
from tests.training.corpus.crawl.loopback_site import (
    Page,
    Site,
    finish,
    log_of,
    send,
    serve,
    start_crawl,
)
from tests.training.corpus.crawl.memory_web import AGENT
from training.corpus.crawl.admission import MAX_HOPS
from training.corpus.document import Page as DownloadedPage
from training.corpus.sources.config import SourceConfig
from training.corpus.sources.reading import read

ROOT = Path(__file__).resolve().parents[4]
MEGABYTE = 1 << 20


def links(*paths: str) -> str:
    return "<html>" + "".join(f'<a href="{path}">x</a>' for path in paths)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(bytes(MEGABYTE))
    handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler) -> None:
    send(handler, "x", Content_Length="1000")
    handler.close_connection = True


def silent(_: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def trickling(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.1)
    handler.close_connection = True


def redirect(to: str) -> Page:
    return lambda one: send(one, "", status=302, Location=to)


TRAPS: dict[str, tuple[Page, str]] = {
    "/endless": (endless, "too large"),
    "/gigabyte": (lambda one: send(one, "x", Content_Length=str(1 << 30)), "too large"),
    "/bomb": (
        lambda one: send(one, gzip.compress(bytes(30 * MEGABYTE), 1), Content_Encoding="gzip"),
        "too large",
    ),
    "/broken-gzip": (
        lambda one: send(one, b"\x1f\x8b\x08broken", Content_Encoding="gzip"),
        "content encoding",
    ),
    "/deflate": (
        lambda one: send(one, zlib.compress(links("/found").encode()), Content_Encoding="deflate"),
        "stored",
    ),
    "/deep": ("<div>" * 100_000 + "text", "stored"),
    "/many": ("".join(f"<a href=/many/{number}>" for number in range(10_050)), "stored"),
    "/video": (lambda one: send(one, bytes(MEGABYTE), "video/mp4"), "content type"),
    "/short": (cut, "truncated"),
    "/bytes": (
        links("/caf\udce9", "/a%zz", "/\x00null").encode("utf-8", "surrogateescape"),
        "stored",
    ),
    "/koi8": (
        lambda one: send(one, links("/?q=привет").encode("koi8-r"), "text/html; charset=koi8-r"),
        "stored",
    ),
    "/elsewhere": (lambda one: send(one, "", status=302, Location="http://192.0.2.1/"), "redirect"),
    "/loop": (redirect("/loop-back"), "redirect"),
    "/loop-back": (redirect("/loop"), "redirect"),
    "/hop/0": (redirect("/hop/1"), "redirect"),
    "/day/1": (links("/day/2"), "stored"),
}


def test_traps_are_bounded_and_named(tmp_path: Path) -> None:
    pages = {path: page for path, (page, _) in TRAPS.items()}
    hops = {f"/hop/{hop}": redirect(f"/hop/{hop + 1}") for hop in range(1, 2 * MAX_HOPS)}
    with serve({"/": links(*TRAPS), **pages, **hops}) as site:
        process = start_crawl(
            site, tmp_path, "--page-bytes", str(MEGABYTE), "--depth", "1", "--wait", "0.01"
        )
        status, out, err = finish(process)
        assert (status, err.count("Traceback")) == (0, 0), err
        rows = log_of(site, tmp_path)
    assert {path: rows[path]["fate"] for path in TRAPS} == {
        path: fate for path, (_, fate) in TRAPS.items()
    }
    assert rows["http://192.0.2.1/"]["fate"] == "off host"
    assert "nested" in rows["/deep"]["value"]
    assert "10,000" in rows["/many"]["value"]
    assert rows["/found"]["fate"] == "too deep"
    last_hop, first_left_out = f"/hop/{MAX_HOPS}", f"/hop/{MAX_HOPS + 1}"
    assert (rows[last_hop]["fate"], rows[first_left_out]["fate"]) == ("redirect", "redirect limit")
    assert (rows["/day/2"]["fate"], rows["/day/2"]["value"]) == ("too deep", "2 (at most 1)")
    assert not {first_left_out, "/day/2"} & set(site.paths)
    assert rows["/?q=%D0%D2%C9%D7%C5%D4"]["fate"] == "too deep", (
        "the query keeps the page's charset"
    )
    counts = {line.split(None, 1)[1]: line.split()[0] for line in out.splitlines()[:-1]}
    assert counts["too large"] == "3"


def test_private_addresses_are_refused_by_number_and_by_name(tmp_path: Path) -> None:
    with serve({"/": links()}) as site:
        names = ("127.0.0.1", "localhost", "127.1", "2130706433")
        seeds = tuple(f"http://{name}:{site.port}/" for name in names)
        process = start_crawl(site, tmp_path, "--wait", "0", seeds=seeds, is_private=False)
        status, _, err = finish(process)
        assert (status, site.paths) == (1, [])
        reasons = [line for line in err.splitlines() if line.startswith("http")]
        assert [line.partition(": ")[0] for line in reasons] == list(seeds)
        assert all("private address" in one and "--private-addresses" in one for one in reasons)
        rows = {row["url"]: row["fate"] for row in log_of(site, tmp_path).values()}
        assert rows == dict.fromkeys(seeds, "private address")

        # Such a crawl is not "finished": the command is repeated, here with what was missing.
        process = start_crawl(site, tmp_path, "--wait", "0", seeds=seeds[:1])
        assert finish(process)[0] == 0
        assert log_of(site, tmp_path)["/"]["fate"] == "stored"


def test_host_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        site = Site({}, listening.getsockname()[1])
        status, out, err = finish(start_crawl(site, tmp_path, "--timeout", "0.1", "--wait", "0"))
        rows = log_of(site, tmp_path)
    assert (status, "Traceback" in err) == (1, False), err
    assert (rows["/"]["fate"], rows["/"]["value"]) == (
        "robots unreachable",
        "timeout: no complete answer in 0.1 s",
    )
    assert out.split("\n")[0].split() == ["1", "robots", "unreachable"]


@pytest.mark.long
def test_slow_answers_end_by_the_time_limit(tmp_path: Path) -> None:
    pages: dict[str, Page] = {"/silent": silent, "/trickling": trickling, "/good": links()}
    with serve({"/": links(*pages), **pages}) as site:
        process = start_crawl(site, tmp_path, "--timeout", "1", "--wait", "0.1")
        assert finish(process)[0] == 0
        rows = log_of(site, tmp_path)
    fates = {path: rows[path]["fate"] for path in pages}
    assert fates == {"/silent": "timeout", "/trickling": "timeout", "/good": "stored"}


@pytest.mark.long
def test_full_disk_is_named_and_the_crawl_continues_later(tmp_path: Path) -> None:
    pages, stored = tree(300)
    with serve(pages) as site:
        status, _, err = finish(start_crawl(site, tmp_path, largest_file=100_000))
        assert (status, "Traceback" in err) == (2, False), err
        assert "--out" in err
        assert finish(start_crawl(site, tmp_path))[0] == 0
        assert sorted(read_by_fastwarc(tmp_path)) == sorted(map(site.url, stored))


@pytest.mark.long
def test_unknown_certificate_is_refused(tmp_path: Path) -> None:
    pair = Authority.create(1).sign(x509.Name([]), [x509.DNSName("localhost")], 1)
    write_pair(tmp_path, "site", pair)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "site.pem", tmp_path / "site.key")
    with serve({"/": links()}, tls) as site:
        seeds = (f"https://localhost:{site.port}/",)
        status, _, err = finish(start_crawl(site, tmp_path / "out", "--wait", "0", seeds=seeds))
        row = log_of(site, tmp_path / "out")[seeds[0]]
    assert (status, "Traceback" in err) == (1, False), err
    assert (row["fate"], row["value"]) == ("robots unreachable", "connection: TLS")
    assert not site.paths


PRIVATE = tuple(f"/private/{number}" for number in range(8))
RULES = "User-agent: *\nDisallow: /private\n"
STOCK = """
import sys
from scrapy import Spider
from scrapy.crawler import CrawlerProcess

class Stock(Spider):
    name = "stock"
    start_urls = sys.argv[1:]

process = CrawlerProcess({"ROBOTSTXT_OBEY": True, "LOG_ENABLED": False})
process.crawl(Stock)
process.start()
"""


def slow_rules(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.2)
    send(handler, RULES, "text/plain")


def test_concurrent_first_requests_do_not_bypass_robots_txt(tmp_path: Path) -> None:
    with serve({"/robots.txt": slow_rules, **dict.fromkeys(PRIVATE, links())}) as site:
        process = start_crawl(site, tmp_path, "--concurrency", "8", seeds=PRIVATE)
        assert finish(process)[0] == 1, "no page was stored"
        assert not set(site.paths) & set(PRIVATE)
        rows = log_of(site, tmp_path)
        assert {rows[path]["fate"] for path in PRIVATE} == {"robots"}


@pytest.mark.long
def test_scrapys_own_middleware_would_fail_the_test_of_robots_txt() -> None:
    with serve({"/robots.txt": slow_rules, **dict.fromkeys(PRIVATE, links())}) as site:
        command = [sys.executable, "-c", STOCK, *map(site.url, PRIVATE)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=250)
        # If this fails, scrapy has mended its defect and the comment in download.py is out of date.
        assert set(site.paths) & set(PRIVATE)


def tree(count: int) -> tuple[dict[str, Page], set[str]]:
    """Return pages of which every seventh redirects, and the paths that a crawl stores."""
    pages: dict[str, Page] = {"/": links("/1")}
    follows = {"/": ["/1"]}
    for number in range(1, count):
        path, children = f"/{number}", [f"/{child}" for child in (2 * number, 2 * number + 1)]
        if number % 7 == 0:
            children = [f"/{number + 1}"]
            pages[path] = lambda one, to=children[0]: send(one, "", status=301, Location=to)  # type: ignore[misc]
        else:
            pages[path] = links(*children) + f"text {number} " * 50
        follows[path] = children
    reached, queue = {"/"}, ["/"]
    while queue:
        new = [path for path in follows.get(queue.pop(), []) if path not in reached]
        reached.update(new)
        queue += new
    return pages, {path for path in reached & set(pages) if path == "/" or int(path[1:]) % 7}


def crawl_with_kills(site: Site, out: Path, kills: int, draw: random.Random) -> int:
    """Crawl with interruptions after random numbers of requests; return their number."""
    done = 0
    for number in range(kills + 1):
        process = start_crawl(site, out, "--file-bytes", "5000")
        if number < kills:
            sent = signal.SIGINT if number == 1 else signal.SIGKILL
            last = len(site.paths) + draw.randrange(2, 25)
            site.on_request = lambda at, to=process, after=last, how=sent: (  # type: ignore[misc]
                os.kill(to.pid, how) if at == after else None
            )
        else:
            site.on_request = lambda _: None
        status, _, err = finish(process)
        if status == -signal.SIGKILL:
            done += 1
        elif status == 128 + signal.SIGINT:
            assert "same command" in err
            done += 1
        else:
            assert status == 0, err
    return done


def check_kills(out: Path, count: int, kills: int, seed: int) -> None:
    pages, stored = tree(count)
    with serve(pages) as site:
        assert crawl_with_kills(site, out, kills, random.Random(seed)) >= min(kills, 3)
        rows = log_of(site, out)
        assert {path for path, row in rows.items() if row["fate"] == "stored"} == stored
        assert len(stored) > count // 3
        assert sorted(read_by_fastwarc(out)) == sorted(site.url(path) for path in stored)
        check_warc_files(out, {row["url"]: row for row in rows.values()})
        assert read_by_sources(out) == {site.url(path): "text/html" for path in stored}


def test_killed_crawl_continues_with_the_same_pages(tmp_path: Path) -> None:
    check_kills(tmp_path, 60, kills=3, seed=1)


@pytest.mark.long
def test_crawl_killed_20_times_continues_with_the_same_pages(tmp_path: Path) -> None:
    check_kills(tmp_path, 1000, kills=20, seed=2)


def read_by_fastwarc(out: Path) -> list[str]:
    """Return the URLs of all response records, with their digests verified."""
    urls = []
    for file in sorted((out / "latest").glob("*.warc.gz")):
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream, WarcRecordType.response, verify_digests=True):
                assert record.http_headers.status_code == 200
                urls.append(record.headers["WARC-Target-URI"])
    return urls


def read_by_sources(out: Path) -> dict[str, str]:
    """Return the URLs and types of the pages that the next step of the data path reads."""
    source = SourceConfig("crawl", out / "latest", ("*.warc.gz",))
    items = [item for file in source.folder.glob("*.warc.gz") for item in read(source, file)]
    assert all(isinstance(item, DownloadedPage) for item in items)
    return {
        item.origin.url: item.content_type for item in items if isinstance(item, DownloadedPage)
    }


def check_warc_files(out: Path, rows: dict[str, dict[str, object]]) -> None:
    """Check the files against the specification of WARC 1.1, byte by byte and without a library."""
    files = sorted((out / "latest").glob("*.warc.gz"))
    assert len(files) > 1
    for file in files:
        data, offset, kinds = file.read_bytes(), 0, []
        while offset < len(data):
            member = zlib.decompressobj(wbits=31)
            record = member.decompress(data[offset:])
            assert member.eof, "each record is a whole gzip member"
            length = len(data) - offset - len(member.unused_data)
            head, _, rest = record.partition(b"\r\n\r\n")
            version, *lines = head.decode().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines)
            assert version == "WARC/1.1"
            size = int(fields["Content-Length"])
            assert rest[size:] == b"\r\n\r\n"
            block = rest[:size]
            digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
            assert fields["WARC-Block-Digest"] == f"sha1:{digest}"
            assert fields["WARC-Record-ID"].startswith("<urn:uuid:")
            kinds.append(fields["WARC-Type"])
            if fields["WARC-Type"] == "response":
                http, _, body = block.partition(b"\r\n\r\n")
                assert http.startswith(b"HTTP/1.1 200 OK\r\n")
                assert f"Content-Length: {len(body)}".encode() in http
                assert fields["WARC-IP-Address"] == "127.0.0.1"
                row = rows[fields["WARC-Target-URI"]]
                place = (row["file"], row["offset"], row["length"], row["size"])
                assert place == (file.name, offset, length, len(body))
            else:
                assert AGENT.encode() in block
            offset += length
        assert kinds[0] == "warcinfo"
        assert set(kinds[1:]) == {"response"}
