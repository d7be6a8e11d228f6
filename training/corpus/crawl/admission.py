"""Admission of URLs to the frontier: scope, depth, traps and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Frontier, Kind, Result, Target
from training.corpus.crawl.host import Host
from training.corpus.crawl.page import ParsedPage
from training.corpus.crawl.robots import MAX_SITEMAPS
from training.corpus.crawl.settings import CrawlSettings, Signal
from training.corpus.crawl.urls import canonical_url, is_repeating, is_web_link

MAX_HOPS = 10
# URLs that were admitted lately; a link to one of them needs no look into the frontier.
RECENT_URLS = 100_000


class Admission:
    """Admission of URLs.

    Args:
        hosts: state of the hosts that were requested.
    """

    def __init__(
        self, settings: CrawlSettings, frontier: Frontier, hosts: Mapping[str, Host]
    ) -> None:
        self._settings = settings
        self._frontier = frontier
        self._hosts = hosts
        self._scope = settings.scope
        self._recent: set[str] = set()

    def admit_links(self, target: Target, page: ParsedPage, base: str) -> None:
        """Admit the links of a page; links to other schemes than http and https are left out."""
        found: list[tuple[Target, Result | None]] = []
        for href, is_nofollow in page.links:
            if not is_web_link(href):
                continue
            url = canonical_url(href, base, page.encoding)
            if url in self._recent:
                continue
            if url is None:
                # The text of the link may be anything; its beginning suffices to find it.
                shown = href[:100].encode("utf-8", "replace").decode()
                found.append((Target(shown, target.depth + 1, target.url), Result(Fate.INVALID)))
                continue
            link = Target(url, target.depth + 1, target.url)
            if is_nofollow and Signal.NOFOLLOW in self._settings.obey:
                found.append((link, Result(Fate.NOFOLLOW)))
            else:
                found.append((link, self.objection(link)))
        self._remember(found)

    def admit(self, targets: Iterable[Target]) -> None:
        """Admit URLs with their objections."""
        self._remember([(target, self.objection(target)) for target in targets])

    def _remember(self, found: list[tuple[Target, Result | None]]) -> None:
        self._frontier.admit(found)
        if len(self._recent) > RECENT_URLS:
            self._recent.clear()
        self._recent.update(target.url for target, result in found if result is None)

    def objection(self, target: Target) -> Result | None:
        """Return the result of a URL that is not requested; None if it is."""
        settings, host = self._settings, self._hosts.get(target.host)
        if not self._scope.allows(target.host):
            return Result(Fate.OFF_HOST)
        if host and host.closed:
            return host.closed
        if is_repeating(target.url):
            return Result(Fate.REPEATING_PATH)
        if target.depth > settings.depth:
            return Result(Fate.TOO_DEEP, f"{target.depth} (at most {settings.depth})")
        if target.hops > MAX_HOPS:
            return Result(Fate.REDIRECT_LIMIT, f"{target.hops} (at most {MAX_HOPS})")
        if target.kind is Kind.SITEMAP and self._frontier.sitemaps(target.host) >= MAX_SITEMAPS:
            return Result(Fate.SITEMAP_LIMIT, f"at most {MAX_SITEMAPS:,}")
        return None
