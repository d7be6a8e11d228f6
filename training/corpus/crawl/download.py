"""Downloads: their interface, and scrapy as its implementation.

Only scrapy's engine, downloader and decompression are used. The crawler itself decides on
robots.txt, delays, redirects and repetitions before a request reaches scrapy, because scrapy's
middlewares for them keep their state in memory, and because its robots middleware (2.15 to 2.19)
does not check all of the first concurrent requests to a host.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from scrapy import Request, Spider, signals
from scrapy.crawler import AsyncCrawlerProcess, Crawler
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    StopDownload,
)
from scrapy.http.request import NO_CALLBACK
from scrapy.resolver import CachingThreadedResolver
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from training.corpus.crawl.archive import Headers
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.settings import CrawlSettings
from training.corpus.crawl.urls import is_private

ALLOW_PRIVATE = "THUMBWHEEL_PRIVATE_ADDRESSES"


@dataclass(frozen=True, slots=True)
class Response:
    """Response with a decompressed body.

    Attributes:
        address: IP address of the server; "" if unknown.
        is_partial: True if the body was not downloaded because of its type.
    """

    status: int
    headers: Headers
    body: bytes
    address: str = ""
    is_partial: bool = False

    def header(self, name: bytes) -> str:
        """Return the first value of a header; "" if absent."""
        for key, value in self.headers:
            if key.lower() == name:
                return value.decode("latin-1").strip()
        return ""


class FetchError(Exception):
    """A request without a usable response.

    Args:
        fate: fate of the URL if the request is not repeated.
        value: reason, without content of the response.
    """

    def __init__(self, fate: Fate, value: str) -> None:
        super().__init__(f"{fate}: {value}")
        self.fate = fate
        self.value = value


class Fetch(Protocol):
    """Download of a URL."""

    async def __call__(
        self, url: str, headers: Mapping[str, str], max_bytes: int, accepts: Callable[[str], bool]
    ) -> Response:
        """Return the response, whatever its status; redirects are not followed.

        Args:
            max_bytes: limit of the body, both as transferred and decompressed.
            accepts: called with the Content-Type of a response 200; if the result is False, the
                body is not downloaded.

        Raises:
            FetchError: no response, or a body over the limit, cut or not decodable.
        """


class PublicResolver(CachingThreadedResolver):
    """Resolver that refuses private addresses.

    The check belongs to the lookup of each connection, as a name may change its address.
    """

    # Of the class, because scrapy makes the only object and keeps it in the reactor.
    refused: ClassVar[set[str]] = set()
    allows_private: bool

    @classmethod
    def from_crawler(cls, crawler: Crawler, reactor: ReactorBase) -> PublicResolver:
        made = super().from_crawler(crawler, reactor)
        made.allows_private = crawler.settings.getbool(ALLOW_PRIVATE)
        return made

    def getHostByName(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:
        return super().getHostByName(name, timeout).addCallback(self._check, name)

    def _check(self, address: str, name: str) -> str:
        if is_private(address) and not self.allows_private:
            self.refused.add(name)
            raise OSError("private address")
        return address


class CrawlSpider(Spider):
    """Spider that runs a function with the download as its argument."""

    name = "thumbwheel"

    def __init__(
        self,
        work: Callable[[Fetch], Coroutine[Any, Any, None]],
        stop: Callable[[], None],
        settings_of_crawl: CrawlSettings,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self._work = work
        self._stop = stop
        self._settings = settings_of_crawl
        self.outcome: asyncio.Future[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler, *arguments: Any, **named: Any) -> CrawlSpider:
        spider = super().from_crawler(crawler, *arguments, **named)
        crawler.signals.connect(spider.check_type, signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """Run the crawl; no request is yielded to scrapy's scheduler."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        # `run_crawl` takes the result, because scrapy would log an error and go on.
        self.outcome = asyncio.ensure_future(self._work(self.fetch))
        await asyncio.wait([self.outcome])
        requests: tuple[Request, ...] = ()
        for request in requests:
            yield request

    def check_type(self, headers: Any, request: Request, body_length: int) -> None:
        """Stop a download whose type is not accepted."""
        if accepts := request.meta.get("accepts"):
            # Headers of a response other than 200 may belong to an error page of another type.
            content_type = (headers.get("Content-Type") or b"").decode("latin-1")
            if not accepts(content_type):
                raise StopDownload(fail=False)

    async def fetch(
        self, url: str, headers: Mapping[str, str], max_bytes: int, accepts: Callable[[str], bool]
    ) -> Response:
        request = Request(
            url,
            headers=dict(headers),
            callback=NO_CALLBACK,
            dont_filter=True,
            meta={
                "download_timeout": self._settings.timeout_seconds,
                "download_maxsize": max_bytes,
                "download_warnsize": 0,
                "accepts": accepts,
            },
        )
        assert self.crawler.engine is not None
        try:
            got = await self.crawler.engine.download_async(request)
        except DownloadTimeoutError as error:
            seconds = self._settings.timeout_seconds
            raise FetchError(Fate.TIMEOUT, f"no complete answer in {seconds:g} s") from error
        except (DownloadCancelledError, IgnoreRequest) as error:
            raise FetchError(Fate.TOO_LARGE, f"more than {max_bytes:,} bytes") from error
        except ResponseDataLossError as error:
            raise FetchError(Fate.TRUNCATED, "connection closed within the body") from error
        except CannotResolveHostError as error:
            if request.meta.get("download_slot") in PublicResolver.refused:
                raise FetchError(Fate.PRIVATE_ADDRESS, "by name") from error
            raise FetchError(Fate.CONNECTION, "host name has no address") from error
        except DownloadConnectionRefusedError as error:
            raise FetchError(Fate.CONNECTION, "refused") from error
        except Exception as error:
            # Errors of decompression and of connections have no common class in scrapy's stack.
            name = reason_of(error)
            is_coding = isinstance(error, (EOFError, ValueError)) or name in ("error", "ZstdError")
            fate = Fate.DECODING if is_coding or "gzip" in name.lower() else Fate.CONNECTION
            raise FetchError(fate, name) from error
        pairs = tuple((name, value) for name, values in got.headers.items() for value in values)
        address = str(got.ip_address or "")
        return Response(got.status, pairs, got.body, address, "download_stopped" in got.flags)


def reason_of(error: Exception) -> str:
    """Return the class of the first cause of an error, or "TLS", which includes certificates."""
    reasons = getattr(error.__cause__, "reasons", ())
    kind: type = reasons[0].type if reasons else type(error)
    return "TLS" if kind.__module__.startswith("OpenSSL") else kind.__name__


def run_crawl(
    settings: CrawlSettings,
    work: Callable[[Fetch], Coroutine[Any, Any, None]],
    stop: Callable[[], None],
) -> None:
    """Run a crawl in scrapy's process until it ends.

    Args:
        work: the crawl; gets the download.
        stop: called on SIGINT and SIGTERM; lets `work` return soon.
    """
    process = AsyncCrawlerProcess(scrapy_settings(settings))
    crawler = process.create_crawler(CrawlSpider)
    process.crawl(crawler, work=work, stop=stop, settings_of_crawl=settings)
    # Without a log Twisted prints tracebacks, for example of each refused certificate.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    process.start(install_signal_handlers=False)
    spider = crawler.spider
    assert isinstance(spider, CrawlSpider)
    assert spider.outcome is not None
    spider.outcome.result()


def scrapy_settings(settings: CrawlSettings) -> dict[str, object]:
    """Return scrapy's settings for a crawl."""
    modules = "scrapy.downloadermiddlewares"
    return {
        "USER_AGENT": settings.agent,
        "DNS_RESOLVER": f"{__name__}.{PublicResolver.__name__}",
        ALLOW_PRIVATE: settings.private_addresses,
        "DNS_TIMEOUT": settings.timeout_seconds,
        "DOWNLOADER_MIDDLEWARES_BASE": {
            f"{modules}.useragent.UserAgentMiddleware": 500,
            f"{modules}.httpcompression.HttpCompressionMiddleware": 590,
        },
        "SPIDER_MIDDLEWARES_BASE": {},
        "EXTENSIONS_BASE": {},
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_MAXSIZE": settings.page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_DELAY": 0,
        "CONCURRENT_REQUESTS": 0,
        "CONCURRENT_REQUESTS_PER_DOMAIN": settings.total_concurrency,
        "LOG_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
    }
