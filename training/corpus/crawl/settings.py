"""Settings of a crawl and their checks."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum

from training.corpus.crawl.urls import Scope, canonical_url, host_of
from training.corpus.document import CorpusError

MIB = 1 << 20
# A contact for the owners of sites, as RFC 9110 (section 10.1.5) advises for robots.
CONTACT = re.compile(r"https?://[^\s/]+|[^\s@]+@[^\s@]+\.[^\s@]+")
PRODUCT = re.compile(r"[A-Za-z0-9_-]+")


class Signal(StrEnum):
    """Opt-out signals of a page beside robots.txt, which is always obeyed.

    `NOFOLLOW` keeps the links of a page, or a single link, from being followed. `NOAI` also covers
    "noimageai". `TDM` is the reservation of text and data mining (W3C TDM Reservation Protocol).
    """

    NOINDEX = "noindex"
    NOAI = "noai"
    NOFOLLOW = "nofollow"
    TDM = "tdm"


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """Settings of a crawl.

    Attributes:
        seeds: URLs of the first pages.
        agent: User-Agent header, with a URL or a mail address for the owners of sites.
        hosts: allowed hosts, "*.example.org" for all below a domain; by default the seeds' hosts.
        depth: links between a seed and a page, at most.
        pages: stored pages, at most.
        host_pages: stored pages of one host, at most.
        delay_seconds: time between the starts of two requests to a host; a longer Crawl-delay of
            robots.txt takes precedence.
        concurrency: requests to one host at the same time, at most.
        total_concurrency: requests at the same time, at most.
        timeout_seconds: time for a response with its body.
        wait_seconds: longest accepted wait for a host: Crawl-delay, Retry-After or backoff.
        page_bytes: size of a page, both as transferred and decompressed.
        file_bytes: size of a WARC file after which the next begins.
        obey: opt-out signals to obey.
        sitemaps: read the sitemaps of each host.
        private_addresses: allow hosts with loopback, private and link-local addresses.
    """

    seeds: tuple[str, ...]
    agent: str
    hosts: tuple[str, ...] = ()
    depth: int = 20
    pages: int = 1_000_000
    host_pages: int = 50_000
    delay_seconds: float = 1.0
    concurrency: int = 2
    total_concurrency: int = 16
    timeout_seconds: float = 30.0
    wait_seconds: float = 300.0
    page_bytes: int = 10 * MIB
    file_bytes: int = 1024 * MIB
    obey: frozenset[Signal] = frozenset(Signal)
    sitemaps: bool = True
    private_addresses: bool = False

    def __post_init__(self) -> None:
        self._check_agent()
        if not self.seeds:
            raise CorpusError("--seeds: no URL is given", field="--seeds", limit="at least one URL")
        for number, seed in enumerate(self.seeds, 1):
            if canonical_url(seed) is None:
                raise CorpusError(
                    f"--seeds: entry {number} is no URL of a page",
                    field="--seeds",
                    limit="http or https, with a host, at most 2,000 characters",
                )
        limits = (
            ("depth", self.depth, 0),
            ("pages", self.pages, 1),
            ("host-pages", self.host_pages, 1),
            ("concurrency", self.concurrency, 1),
            ("total-concurrency", self.total_concurrency, 1),
            ("page-bytes", self.page_bytes, 1024),
            ("file-bytes", self.file_bytes, 1024),
            ("delay", self.delay_seconds, 0),
            ("timeout", self.timeout_seconds, 0.1),
            ("wait", self.wait_seconds, 0),
        )
        for name, value, least in limits:
            if not value >= least:  # NaN fails, too
                raise CorpusError(
                    f"--{name}: {value} is less than {least}",
                    field=f"--{name}",
                    limit=f"at least {least}",
                )

    def _check_agent(self) -> None:
        name = PRODUCT.match(self.agent)
        if not (name and CONTACT.search(self.agent) and self.agent.isascii()):
            raise CorpusError(
                "--agent: the user agent must begin with the name of the crawler and contain a URL "
                'or a mail address of its operator, as in "ExampleBot/1.0 (+https://example.org)"',
                field="--agent",
                limit="ASCII: a name of letters, digits, - and _, then a URL or a mail address",
            )
        if not self.agent.isprintable():
            raise CorpusError(
                "--agent: control characters are not allowed", field="--agent", limit="one line"
            )

    @property
    def product(self) -> str:
        """Return the name of the crawler, as robots.txt and X-Robots-Tag address it."""
        found = PRODUCT.match(self.agent)
        assert found is not None  # checked by __post_init__
        return found[0]

    @property
    def scope(self) -> Scope:
        """Return the allowed hosts."""
        seeds = [url for seed in self.seeds if (url := canonical_url(seed))]
        return Scope(self.hosts or tuple(host_of(url) for url in seeds))

    @property
    def identity(self) -> dict[str, object]:
        """Return the settings that determine the set of pages, as JSON values.

        A crawl is continued with the same values only.
        """
        values = asdict(self)
        names = ("seeds", "hosts", "depth", "pages", "host_pages", "page_bytes", "sitemaps")
        chosen: dict[str, object] = {
            name: list(values[name]) if isinstance(values[name], tuple) else values[name]
            for name in names
        }
        return {**chosen, "obey": sorted(self.obey), "agent": self.product}
