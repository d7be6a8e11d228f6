"""Pages per second and memory of the crawler, against a plain scrapy spider on the same pages.

`python benchmarks/crawl.py [--pages 3000] [--rounds 1]`. The manuals of Debian packages are served
on loopback by a process of its own. Both crawlers obey robots.txt, follow all links of the host
without delay, eight requests at a time, and write WARC files. They alternate; ratios compare the
processor time within a round, which depends little on other load of the machine. The plain spider
has no limits, no log and no state on disk.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import subprocess
import sys
import tempfile
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType

from infra.install.documentation import MANUALS, find_installed

ROOT = Path(__file__).resolve().parents[1]
CONCURRENCY = 8
AGENT = "BenchmarkBot/1.0 (+https://example.org/bot)"
PLAIN = """
import gzip, io, sys
from fastwarc.warc import WarcRecord, WarcRecordType
from scrapy import Spider
from scrapy.crawler import CrawlerProcess
from scrapy.http import HtmlResponse
from scrapy.linkextractors import LinkExtractor

file, pages, concurrency, *seeds = sys.argv[1:]
out = open(file, "wb")

class Plain(Spider):
    name = "plain"
    start_urls = seeds
    allowed_domains = ["127.0.0.1"]
    links = LinkExtractor()

    def parse(self, response):
        if not isinstance(response, HtmlResponse):
            return
        record = WarcRecord()
        record.init_headers(WarcRecordType.response)
        record.is_http = True
        record.headers["WARC-Target-URI"] = response.url
        record.set_bytes_content(b"HTTP/1.1 200 OK\\r\\n" + response.headers.to_string() + b"\\r\\n\\r\\n" + response.body)
        plain = io.BytesIO()
        record.write(plain, checksum_data=True)
        out.write(gzip.compress(plain.getvalue(), 6))
        for link in self.links.extract_links(response):
            yield response.follow(link)

process = CrawlerProcess({
    "ROBOTSTXT_OBEY": True, "LOG_ENABLED": False, "DOWNLOAD_DELAY": 0, "CLOSESPIDER_PAGECOUNT": int(pages),
    "CONCURRENT_REQUESTS": int(concurrency), "CONCURRENT_REQUESTS_PER_DOMAIN": int(concurrency),
})
process.crawl(Plain)
process.start()
out.close()
"""  # noqa: E501


class Handler(SimpleHTTPRequestHandler):
    """Handler of files with connections that stay open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Print no line for a request."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        handler = functools.partial(Handler, directory=str(options.serve))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            print(server.server_port, flush=True)
            server.serve_forever()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("scrapy", "fastwarc"))
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}")
    serve = [sys.executable, __file__, "--serve", str(find_installed())]
    with subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        site = f"http://127.0.0.1:{int(server.stdout.readline())}"
        seeds = [f"{site}/{manual.name}/{manual.start}" for manual in MANUALS]
        try:
            for _ in range(options.rounds):
                measure_round(seeds, options.pages)
        finally:
            server.terminate()


def measure_round(seeds: list[str], pages: int) -> None:
    """Run both crawlers and print their figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crawler = [sys.executable, "-m", "training.corpus", "crawl", "--out", str(folder / "out")]
        crawler += ["--agent", AGENT, "--private-addresses", "--delay", "0"]
        crawler += ["--concurrency", str(CONCURRENCY), "--pages", str(pages), "--seeds", *seeds]
        plain = [sys.executable, "-c", PLAIN, str(folder / "plain" / "pages.warc.gz")]
        plain += [str(pages), str(CONCURRENCY), *seeds]
        (folder / "plain").mkdir()
        own = measure("thumbwheel", crawler, folder / "out" / "0001")
        other = measure("plain scrapy", plain, folder / "plain")
        print(f"processor time a page: 1/{other / own:.1f} of the plain spider's")


def measure(name: str, command: list[str], folder: Path) -> float:
    """Run a crawler, print its figures, and return its processor seconds a page."""
    began = time.perf_counter()
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=nothing, stderr=nothing)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    seconds, processor = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    count = size = 0
    for file in folder.rglob("*.warc.gz"):
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream, WarcRecordType.response):
                count += 1
                size += record.content_length
    print(
        f"{name}: {count:,} pages, {size / 1e6:.0f} MB in {seconds:.1f} s "
        f"({count / seconds:.1f}/s), {processor:.1f} processor s, {usage.ru_maxrss / 1024:.0f} MB"
    )
    return processor / count


if __name__ == "__main__":
    main()
