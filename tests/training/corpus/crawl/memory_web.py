"""A web in memory and in simulated time, and crawls of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType

from tests.support.simulated_time import simulate
from training.corpus.crawl.archive import Archive
from training.corpus.crawl.crawl_log import write_log
from training.corpus.crawl.crawler import Crawl
from training.corpus.crawl.download import FetchError, Response
from training.corpus.crawl.frontier import Frontier
from training.corpus.crawl.settings import CrawlSettings

AGENT = "TestBot/1.0 (+https://example.org/bot)"
SEED = "http://site.test/"
Row = Mapping[str, Any]
Answer = Response | FetchError | Callable[[Mapping[str, str]], Response]


def page(*links: str, head: str = "", **headers: str) -> Response:
    """Return a page with links; keywords are headers with "_" for "-"."""
    body = "".join(f'<a href="{link}">x</a>' for link in links)
    html = f"<html><head>{head}</head><body>{body}</body></html>"
    return reply(200, html, content_type="text/html; charset=utf-8", **headers)


def reply(status: int, body: str | bytes = b"", **headers: str) -> Response:
    """Return a response; keywords are headers with "_" for "-"."""
    pairs = tuple(
        (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
    )
    content = body.encode() if isinstance(body, str) else body
    return Response(status, pairs, content, "192.0.2.1")


@dataclass
class Web:
    """Pages by URL or path; others answer 404. Requests are recorded with their time.

    Attributes:
        seconds: bounds of the time of an answer, drawn from `draw`.
        die_after: number of requests after which each request raises an error, as at a crash.
        is_dead: True after the crash.
    """

    pages: Mapping[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, float]] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)
    draw: random.Random = field(default_factory=random.Random)
    die_after: int | None = None
    is_dead: bool = False

    def __post_init__(self) -> None:
        self.pages = {
            SEED[:-1] + url if url.startswith("/") else url: answer
            for url, answer in self.pages.items()
        }

    async def __call__(
        self, url: str, headers: Mapping[str, str], max_bytes: int, accepts: Callable[[str], bool]
    ) -> Response:
        if self.die_after is not None and len(self.requests) >= self.die_after:
            self.is_dead = True
            raise InterruptedError
        self.requests.append((url, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.draw.uniform(*self.seconds))
        answer = self.pages.get(url) or reply(404)
        if isinstance(answer, FetchError):
            raise answer
        return answer if isinstance(answer, Response) else answer(headers)

    def times(self, path: str) -> list[float]:
        """Return the times of the requests for a path of the site."""
        return [time for url, time in self.requests if url == SEED[:-1] + path]

    @property
    def pages_requested(self) -> list[str]:
        """URLs of all requests except those for robots.txt and the usual sitemap."""
        ends = ("/robots.txt", "/sitemap.xml")
        return [url for url, _ in self.requests if not url.endswith(ends)]


class MortalFrontier(Frontier):
    """Frontier that commits nothing after the crash of a web, as if the process was killed."""

    web: Web

    def commit(self, file: str, length: int) -> None:
        if not self.web.is_dead:
            super().commit(file, length)


@dataclass
class Crawled:
    """Rows of the crawl log by path (by URL on other hosts), the folder and the crawl itself."""

    rows: dict[str, Row]
    folder: Path
    crawl: Crawl

    @property
    def fates(self) -> dict[str, str]:
        """Fates without the sitemap that is tried on each host."""
        return {path: row["fate"] for path, row in self.rows.items() if path != "/sitemap.xml"}

    @property
    def archived(self) -> list[str]:
        """Paths of all response records."""
        found = []
        for file in self.folder.glob("*.warc.gz"):
            with file.open("rb") as stream:
                records = ArchiveIterator(stream, WarcRecordType.response, verify_digests=True)
                found += [record.headers["WARC-Target-URI"] for record in records]
        return sorted(url.removeprefix(SEED[:-1]) for url in found)

    @property
    def stored(self) -> set[str]:
        return {path for path, fate in self.fates.items() if fate in ("stored", "unchanged")}


def crawl_into(
    folder: Path,
    web: Web,
    seeds: tuple[str, ...] = (SEED,),
    previous: Path | None = None,
    **given: Any,
) -> Crawled:
    """Crawl a web into a folder, or continue there, without delays by default."""
    folder.mkdir(exist_ok=True, parents=True)
    settings = CrawlSettings(seeds=seeds, agent=AGENT, **{"delay_seconds": 0.0, **given})
    frontier = MortalFrontier(folder)
    frontier.web = web
    earlier = (previous, Frontier(previous)) if previous else None
    archive = Archive(folder, settings.file_bytes, settings.agent)
    try:
        archive.resume(*frontier.archive_end)
        crawl = Crawl(settings, frontier, archive, earlier)
        simulate(crawl.run(web))
        write_log(frontier, folder / "log.jsonl")
    finally:
        archive.close()
        frontier.close()
        if earlier:
            earlier[1].close()
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(row["fate"] for row in rows) or not crawl.is_finished
    found = {row["url"].removeprefix(SEED[:-1]): row for row in rows}
    assert len(found) == len(rows), "one row for each URL"
    return Crawled(found, folder, crawl)
