"""Rules of robots.txt (RFC 9309), parsed by protego."""

from __future__ import annotations

from dataclasses import dataclass

from protego import Protego

# RFC 9309, section 2.5, asks for at least 500 KiB.
MAX_ROBOTS_BYTES = 500 << 10
# Section 2.3.1.2 asks for at least five.
MAX_ROBOTS_REDIRECTS = 5
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
