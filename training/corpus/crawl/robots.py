"""Rules of robots.txt (RFC 9309), parsed by protego."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from protego import Protego

from training.corpus.crawl.download import Fetch, FetchError
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.settings import CrawlSettings
from training.corpus.crawl.urls import canonical_url, host_of

# RFC 9309, section 2.5, asks for at least 500 KiB.
MAX_ROBOTS_BYTES = 500 << 10
# Section 2.3.1.2 asks for at least five.
MAX_ROBOTS_REDIRECTS = 5
MAX_ROBOTS_TRIES = 3
REDIRECTS = (301, 302, 303, 307, 308)
# Sitemaps of one robots.txt, at most.
MAX_SITEMAPS = 1000


@dataclass(frozen=True, slots=True)
class Robots:
    """Rules of an origin for this crawler.

    Attributes:
        rules: parsed file; None if it does not exist, which allows each URL.
        unreachable: error that kept the file from being read, which allows no URL (section
            2.3.1.4); "" if there was none.
        delay_seconds: Crawl-delay; 0 if there is none.
        sitemaps: URLs as written in the file.
    """

    rules: Protego | None = None
    unreachable: str = ""
    delay_seconds: float = 0.0
    sitemaps: tuple[str, ...] = ()

    def allows(self, url: str, product: str) -> bool:
        """Return True if a URL may be requested.

        Args:
            product: name of the crawler.
        """
        if self.unreachable:
            return False
        return self.rules is None or bool(self.rules.can_fetch(url, product))


def parse_robots(body: bytes, product: str) -> Robots:
    """Return the rules of a file; the part beyond the size limit is ignored.

    Args:
        product: name of the crawler.
    """
    rules = Protego.parse(body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace"))
    delay = rules.crawl_delay(product) or 0.0
    sitemaps = tuple(list(rules.sitemaps)[:MAX_SITEMAPS])
    return Robots(rules, delay_seconds=max(float(delay), 0.0), sitemaps=sitemaps)


async def load_robots(origin: str, fetch: Fetch, settings: CrawlSettings) -> Robots:
    """Return the rules of an origin; a passing error is repeated.

    Args:
        origin: scheme and host, with a slash at the end.

    Raises:
        FetchError: the address of the host is private.
    """
    robots = Robots()
    for number in range(MAX_ROBOTS_TRIES):
        if number:
            await asyncio.sleep(min(2.0 ** (number - 1), settings.wait_seconds))
        robots = await _request_robots(f"{origin}robots.txt", fetch, settings)
        if not robots.unreachable:
            break
    return robots


async def _request_robots(url: str, fetch: Fetch, settings: CrawlSettings) -> Robots:
    """Return the rules of a file. RFC 9309, sections 2.3.1.2 to 2.3.1.4, decides on errors."""
    scope = settings.scope
    for _ in range(MAX_ROBOTS_REDIRECTS + 1):
        try:
            response = await fetch(url, {}, 2 * MAX_ROBOTS_BYTES, lambda _: True)
        except FetchError as error:
            if error.fate is Fate.PRIVATE_ADDRESS:
                raise
            return Robots(unreachable=str(error))
        if response.status in REDIRECTS:
            target = canonical_url(response.header(b"location"), url)
            if target is None or not scope.allows(host_of(target)):
                return Robots(unreachable="redirect to another host")
            url = target
        elif response.status == 429 or response.status >= 500:
            return Robots(unreachable=f"http status {response.status}")
        elif response.status >= 400:
            return Robots()
        else:
            return parse_robots(response.body, settings.product)
    return Robots(unreachable=f"more than {MAX_ROBOTS_REDIRECTS} redirects")
