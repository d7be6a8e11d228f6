"""The crawl: rounds over the frontier, one request after the other to each host."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from training.corpus.crawl.admission import Admission
from training.corpus.crawl.archive import Archive, read_page
from training.corpus.crawl.download import Fetch, FetchError, Response
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Frontier, Kind, Result, Target
from training.corpus.crawl.host import MAX_TRIES, Host, retry_after
from training.corpus.crawl.page import (
    ParsedPage,
    is_page,
    is_page_type,
    parse_page,
    signals_of_headers,
)
from training.corpus.crawl.robots import REDIRECTS, load_robots
from training.corpus.crawl.settings import CrawlSettings, Signal
from training.corpus.crawl.sitemaps import MAX_SITEMAP_BYTES, parse_sitemap
from training.corpus.crawl.urls import canonical_url, is_private

BATCH = 64
COMMIT_SECONDS = 1.0
REFUSALS = (429, 503)
# Answers of servers with a passing problem, worth a repetition.
PASSING = (500, 502, 504, *REFUSALS)
DROPPING = (
    (Signal.NOINDEX, Fate.NOINDEX),
    (Signal.NOAI, Fate.NOAI),
    (Signal.TDM, Fate.TDM),
)


class Crawl:
    """A crawl into a folder.

    Args:
        settings: settings of the crawl.
        frontier: frontier in the folder, perhaps of an interrupted crawl.
        archive: archive in the folder, which continues at the frontier's end.
        previous: folder and frontier of an earlier crawl, whose unchanged pages are copied; None
            without.
        report: called about every second with this object.
    """

    def __init__(
        self,
        settings: CrawlSettings,
        frontier: Frontier,
        archive: Archive,
        previous: tuple[Path, Frontier] | None = None,
        report: Callable[[Crawl], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.frontier = frontier
        self.archive = archive
        self.hosts: dict[str, Host] = {}
        self.is_stopped = False
        self.is_finished = False
        self.requests = 0
        self._previous = previous
        self._report = report
        self._stored_before = frontier.stored_by_host()
        self.stored = sum(self._stored_before.values())
        self._admission = Admission(settings, frontier, self.hosts)
        self._next_commit = 0.0
        self._schedule: list[tuple[float, int, Host]] = []
        self._pushed = 0

    def stop(self) -> None:
        """Let `run` end soon; the crawl can be continued later."""
        self.is_stopped = True

    async def run(self, fetch: Fetch) -> None:
        """Crawl until no URL is pending, a limit is reached or `stop` is called.

        The state is on disk when this method returns or raises an error.
        """
        self._fetch = fetch
        frontier = self.frontier
        if not frontier.get("seeded"):
            seeds = [canonical_url(seed) or "" for seed in self.settings.seeds]
            self._admission.admit(Target(url, 0) for url in dict.fromkeys(seeds))
            frontier.set("seeded", "yes")
        try:
            depth = frontier.current_depth()
            if depth is None:
                depth = frontier.next_round()
            while depth is not None and not self._is_ending:
                await self._run_round(depth)
                depth = frontier.next_round() if not self._is_ending else None
            if not self.is_stopped:
                frontier.abandon(Result(Fate.PAGE_LIMIT, f"at most {self.settings.pages:,}"))
                self.is_finished = True
        finally:
            self._commit()

    @property
    def _is_ending(self) -> bool:
        return self.is_stopped or self.stored >= self.settings.pages

    async def _run_round(self, depth: int) -> None:
        """Request all URLs of a round."""
        loop = asyncio.get_running_loop()
        self._schedule.clear()
        for name in self.frontier.hosts(depth):
            host = self._host(name)
            host.begin_round()
            host.is_scheduled = False
            if host.closed:
                self._close(host, host.closed)
                continue
            self._push(host, host.next_time)
        running: dict[asyncio.Task[None], Host] = {}
        try:
            while (self._schedule or running) and not self._is_ending:
                now = loop.time()
                while (
                    self._schedule
                    and self._schedule[0][0] <= now
                    and len(running) < self.settings.total_concurrency
                    and self.stored + len(running) < self.settings.pages
                ):
                    _, _, host = heapq.heappop(self._schedule)
                    host.is_scheduled = False
                    if host.in_flight < host.concurrency and (work := self._next(host, depth)):
                        host.in_flight += 1
                        host.next_time = now + host.delay_seconds
                        running[loop.create_task(work)] = host
                        self._push(host, host.next_time)
                until = self._schedule[0][0] - now if self._schedule else COMMIT_SECONDS
                timeout = min(max(until, 0.0), COMMIT_SECONDS)
                if not running:
                    await asyncio.sleep(timeout)
                else:
                    # A full house waits for an answer; otherwise also for the next host.
                    is_full = len(running) >= self.settings.total_concurrency
                    done, _ = await asyncio.wait(
                        running,
                        timeout=COMMIT_SECONDS if is_full else timeout or 0.01,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        host = running.pop(task)
                        host.in_flight -= 1
                        task.result()
                        self._push(host, host.next_time)
                if loop.time() >= self._next_commit:
                    self._commit()
                    self._report(self)
                    self._next_commit = loop.time() + COMMIT_SECONDS
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for host in running.values():
                host.in_flight = 0

    def _push(self, host: Host, when: float) -> None:
        if not host.is_scheduled:
            host.is_scheduled = True
            self._pushed += 1
            heapq.heappush(self._schedule, (when, self._pushed, host))

    def _commit(self) -> None:
        self.archive.flush()
        self.frontier.commit(*self.archive.end)

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            settings = self.settings
            stored = self._stored_before.get(name, 0)
            self.hosts[name] = Host(name, settings.delay_seconds, settings.concurrency, stored)
        return self.hosts[name]

    def _next(self, host: Host, depth: int) -> Coroutine[None, None, None] | None:
        """Return the next request to a host; None if there is none now."""
        for _ in range(BATCH):
            if host.closed or host.stored + host.in_flight >= self.settings.host_pages:
                if not host.closed and host.stored >= self.settings.host_pages:
                    self._close(
                        host, Result(Fate.HOST_LIMIT, f"at most {self.settings.host_pages:,}")
                    )
                return None
            if not host.queue and not host.is_scanned:
                host.queue.extend(self.frontier.pending(host.name, depth, host.last, BATCH))
                host.is_scanned = not host.queue
            if not host.queue:
                return None
            target = host.queue[0]
            scheme = urlsplit(target.url).scheme
            if scheme not in host.robots:
                # No other request until the rules are known.
                return None if host.in_flight else self._load_robots(host, scheme, depth)
            host.last = max(
                host.last or target, host.queue[-1], key=lambda one: (one.round, one.key)
            )
            host.queue.popleft()
            robots = host.robots[scheme]
            if robots.allows(target.url, self.settings.product):
                return self._request(host, target)
            fate = Fate.ROBOTS_UNREACHABLE if robots.unreachable else Fate.ROBOTS
            self.frontier.finish(target, Result(fate, robots.unreachable))
        # Give way to other work between long runs of disallowed URLs.
        self._push(host, asyncio.get_running_loop().time() + 0.001)
        return None

    def _close(self, host: Host, result: Result) -> None:
        """Give up all pending URLs of a host."""
        host.closed = result
        host.queue.clear()
        self.frontier.abandon(result, host.name)

    async def _load_robots(self, host: Host, scheme: str, depth: int) -> None:
        """Load the rules of an origin, and admit its sitemaps."""
        origin = f"{scheme}://{host.name}/"
        try:
            robots = await load_robots(origin, self._get, self.settings)
        except FetchError as error:
            self._close(host, Result(error.fate, error.value))
            return
        now = asyncio.get_running_loop().time()
        host.next_time = max(host.next_time, now + host.delay_seconds)
        host.apply_robots(scheme, robots, self.settings.wait_seconds)
        if host.closed:
            self._close(host, host.closed)
        elif self.settings.sitemaps and not robots.unreachable:
            urls = [canonical_url(url, origin) for url in robots.sitemaps or ("sitemap.xml",)]
            self._admission.admit(Target(url, depth, kind=Kind.SITEMAP) for url in urls if url)

    async def _get(
        self, url: str, headers: Mapping[str, str], max_bytes: int, accepts: Callable[[str], bool]
    ) -> Response:
        self.requests += 1
        if is_private(urlsplit(url).hostname or "") and not self.settings.private_addresses:
            raise FetchError(Fate.PRIVATE_ADDRESS, "by number")
        return await self._fetch(url, headers, max_bytes, accepts)

    async def _request(self, host: Host, target: Target) -> None:
        """Request a URL and store its result, or put the URL back into the queue."""
        settings = self.settings
        earlier = self._previous[1].earlier(target.url) if self._previous else None
        headers = {"Accept": "text/html,application/xhtml+xml,text/plain;q=0.5,*/*;q=0.1"}
        if earlier and earlier.etag:
            headers["If-None-Match"] = earlier.etag
        if earlier and earlier.last_modified:
            headers["If-Modified-Since"] = earlier.last_modified
        is_page = target.kind is Kind.PAGE
        max_bytes = settings.page_bytes if is_page else MAX_SITEMAP_BYTES
        host.tries[target.url] += 1
        try:
            response = await self._get(
                target.url, headers, max_bytes, is_page_type if is_page else lambda _: True
            )
        except FetchError as error:
            self._failed(host, target, error)
            return
        now = asyncio.get_running_loop().time()
        if response.status in REFUSALS:
            seconds = retry_after(response.header(b"retry-after"))
            host.refused(now, seconds, settings.wait_seconds)
        else:
            host.answered()
        tries = host.tries[target.url]
        if host.closed:
            self._close(host, host.closed)
        elif response.status in PASSING and tries < MAX_TRIES:
            if response.status not in REFUSALS:
                host.failed(now, tries, "", settings.wait_seconds)
            host.queue.appendleft(target)
        else:
            del host.tries[target.url]
            self._answered(host, target, response, earlier)

    def _failed(self, host: Host, target: Target, error: FetchError) -> None:
        """Repeat a request without an answer, or give up the URL."""
        tries = host.tries[target.url]
        if error.fate is Fate.PRIVATE_ADDRESS:
            self._close(host, Result(error.fate, error.value))
            return
        if error.fate in (Fate.TIMEOUT, Fate.CONNECTION, Fate.TRUNCATED):
            now = asyncio.get_running_loop().time()
            host.failed(now, tries, error.fate, self.settings.wait_seconds)
            if tries < MAX_TRIES:
                host.queue.appendleft(target)
                return
        del host.tries[target.url]
        self.frontier.finish(target, Result(error.fate, error.value))
        if host.closed:
            self._close(host, host.closed)

    def _answered(
        self, host: Host, target: Target, response: Response, earlier: Result | None
    ) -> None:
        """Store the result of a URL with a response."""
        status = response.status
        content_type = response.header(b"content-type")
        media_type = content_type.partition(";")[0].strip().lower()
        result = Result(
            Fate.STATUS,
            str(status),
            status,
            media_type,
            len(response.body),
            datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            etag=response.header(b"etag"),
            last_modified=response.header(b"last-modified"),
        )
        if status in REDIRECTS and (location := response.header(b"location")):
            url = canonical_url(location, target.url)
            if url is None:
                result = replace(result, value=f"{status} with an unusable location")
            else:
                result = replace(result, fate=Fate.REDIRECT, value=url)
                self._admission.admit(
                    [replace(target, url=url, hops=target.hops + 1, referrer=target.url)]
                )
        elif status == 304 and earlier and earlier.position and self._previous:
            page = read_page(self._previous[0], earlier.position)
            if page is None:
                result = replace(result, value="304, but the earlier record is damaged")
            else:
                copied = replace(response, headers=page.headers, body=page.body)
                self._store_page(host, target, copied, earlier)
                return
        elif status == 200 and target.kind is Kind.SITEMAP:
            result = self._read_sitemap(target, response, result)
        elif status == 200:
            if response.is_partial or not is_page(media_type, response.body):
                result = replace(result, fate=Fate.CONTENT_TYPE, value=media_type or "none")
            else:
                self._store_page(host, target, response, replace(result, value=""))
                return
        self.frontier.finish(target, result)

    def _store_page(self, host: Host, target: Target, response: Response, result: Result) -> None:
        """Follow the links of a page, and store it unless a signal or a canonical URL objects.

        Args:
            result: with a position, the record of an earlier crawl to copy.
        """
        settings = self.settings
        signals = signals_of_headers(response.headers, settings.product)
        page = ParsedPage(signals=signals)
        if result.content_type != "text/plain":
            page = parse_page(
                response.body, response.header(b"content-type"), settings.product, signals
            )
        if page.cut:
            result = replace(result, value=page.cut)
        obeyed = page.signals & settings.obey
        base = canonical_url(page.base, target.url, page.encoding) or target.url
        if Signal.NOFOLLOW not in obeyed:
            self._admission.admit_links(target, page, base)
        for signal, fate in DROPPING:
            if signal in obeyed:
                self.frontier.finish(target, replace(result, fate=fate, position=None))
                return
        named = canonical_url(page.canonical, base, page.encoding) if page.canonical else None
        if named and named != target.url and not target.ignores_canonical:
            canonical = replace(target, url=named, hops=target.hops + 1, referrer=target.url)
            if self._admission.objection(canonical) is None:
                self._admission.admit([canonical])
                self.frontier.wait_for_canonical(target, named)
                return
        if result.position and self._previous:
            position = self.archive.append_copy(self._previous[0], result.position)
            result = replace(result, position=position)
        else:
            status_line = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"
            position = self.archive.append_page(
                target.url, status_line, response.headers, response.body, response.address
            )
            result = replace(result, fate=Fate.STORED, position=position)
        self.frontier.finish(target, result)
        host.stored += 1
        self.stored += 1

    def _read_sitemap(self, target: Target, response: Response, result: Result) -> Result:
        """Admit the entries of a sitemap, and return its result."""
        sitemap = parse_sitemap(response.body)
        pages = [canonical_url(url, target.url) for url in sitemap.pages]
        self._admission.admit(Target(url, target.depth + 1, target.url) for url in pages if url)
        for entry in sitemap.sitemaps:
            if url := canonical_url(entry, target.url):
                self._admission.admit([replace(target, url=url, referrer=target.url)])
        value = f"{len(sitemap.pages):,} pages, {len(sitemap.sitemaps):,} sitemaps"
        return replace(
            result, fate=Fate.SITEMAP, value=f"{value}; {sitemap.cut}" if sitemap.cut else value
        )
