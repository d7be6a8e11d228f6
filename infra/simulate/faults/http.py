"""HTTP proxy for S3 stores that injects faults.

Faults are error statuses, slow and missing responses, resets in the middle of a body, and responses
lost after the request. Host and path are forwarded unchanged, because S3 signatures cover both.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from infra.simulate.faults.proxy import HOST, Chance, LoopThread, reset

CHUNK_BYTES = 64 * 1024
HANG_POLL_SECONDS = 0.02
# Headers of a single connection, RFC 9110, section 7.6.1.
HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding")
CODES = {429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


class Kind(StrEnum):
    """Kind of a fault, counted at most once per request."""

    STATUS = "status"
    SLOW = "slow"
    HANG = "hang"
    REQUEST_RESET = "request_reset"
    ANSWER_RESET = "answer_reset"
    ANSWER_LOST = "answer_lost"


@dataclass(frozen=True)
class HttpFault:
    """Fault for the requests that `chance` selects.

    STATUS: the proxy responds with `status` and `retry_after_seconds`; the request does not reach
    the store. SLOW: the request is forwarded after `seconds`. HANG: no response and no close, as
    long as the fault is set. REQUEST_RESET, ANSWER_RESET: both connections are reset after
    `body_bytes` of the request or of the response. ANSWER_LOST: the store processes the request and
    responds; the client's connection is reset.
    """

    kind: Kind
    chance: Chance = field(default_factory=Chance)
    methods: frozenset[str] = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
    status: int = 503
    retry_after_seconds: int | None = None
    seconds: float = 5.0
    body_bytes: int = 1_000


class HttpProxy:
    """Proxy on `port` of 127.0.0.1, used as a context manager.

    `faults` may be set at any time. The first fault whose chance strikes is injected.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port, self.port = target_port, 0
        self.faults: tuple[HttpFault, ...] = ()
        self.counts = Counter[str]()
        self._thread = LoopThread(type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        self._thread.call(self._open())
        return self

    def __exit__(self, *_error: object) -> None:
        self.faults = ()
        self._thread.call(self._close())
        self._thread.stop()

    async def _open(self) -> None:
        self._session = ClientSession(
            cookie_jar=DummyCookieJar(), auto_decompress=False, timeout=ClientTimeout(total=None)
        )
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.counts["requests"] += 1
        fault = next(
            (
                fault
                for fault in self.faults
                if request.method in fault.methods and fault.chance.strikes()
            ),
            None,
        )
        if fault is None:
            return await self._forward(request, None)
        self.counts[fault.kind] += 1
        match fault.kind:
            case Kind.STATUS:
                # The format of S3: a status and XML with the error code.
                code = CODES.get(fault.status, "InternalError")
                seconds = fault.retry_after_seconds
                return web.Response(
                    status=fault.status,
                    text=f"<?xml version='1.0'?><Error><Code>{code}</Code>"
                    "<Message>injected</Message></Error>",
                    content_type="application/xml",
                    headers={} if seconds is None else {"Retry-After": str(seconds)},
                )
            case Kind.HANG:
                # Another thread sets the faults, so polling is simplest.
                while fault in self.faults and request.transport is not None:  # noqa: ASYNC110
                    await asyncio.sleep(HANG_POLL_SECONDS)
                return _cut(request)
            case Kind.SLOW:
                await asyncio.sleep(fault.seconds)
        return await self._forward(request, fault)

    async def _forward(
        self, request: web.BaseRequest, fault: HttpFault | None
    ) -> web.StreamResponse:
        url = URL(f"http://{HOST}:{self._target_port}{request.raw_path}", encoded=True)
        body = _body(request, fault) if request.can_read_body else None
        try:
            async with self._session.request(
                request.method,
                url,
                headers=_end_to_end_headers(request.headers),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                data=body,
                allow_redirects=False,
            ) as answer:
                if fault and fault.kind is Kind.ANSWER_LOST:
                    await answer.read()
                    return _cut(request)
                response = web.StreamResponse(
                    status=answer.status,
                    reason=answer.reason,
                    headers=_end_to_end_headers(answer.headers),
                )
                await response.prepare(request)
                passed, cuts = 0, fault is not None and fault.kind is Kind.ANSWER_RESET
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    if fault and cuts and passed + len(chunk) > fault.body_bytes:
                        await response.write(chunk[: fault.body_bytes - passed])
                        return _cut(request)
                    passed += len(chunk)
                    await response.write(chunk)
                await response.write_eof()
                return response
        # The store is unavailable or its connection was reset: reset the client as well.
        except (ClientError, OSError):
            return _cut(request)


async def _body(request: web.BaseRequest, fault: HttpFault | None) -> AsyncIterator[bytes]:
    passed = 0
    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        if fault and fault.kind is Kind.REQUEST_RESET and passed + len(chunk) > fault.body_bytes:
            yield chunk[: fault.body_bytes - passed]
            raise ConnectionResetError
        passed += len(chunk)
        yield chunk


def _end_to_end_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.title() not in HOP_BY_HOP
    )


def _cut(request: web.BaseRequest) -> web.Response:
    """Reset the connection of the client; the returned response is discarded."""
    if request.transport is not None:
        reset(request.transport)
    return web.Response()
