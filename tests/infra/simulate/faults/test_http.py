"""HTTP proxy: unchanged requests without faults, effect and count of each fault."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from infra.simulate.faults.proxy import Chance

BODY = bytes(range(256)) * 800


class Store(BaseHTTPRequestHandler):
    """S3-like server: stores the body of a PUT and responds to GET with a long body.

    `seen` contains complete requests.
    """

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) == length:
            self.seen.append((self.command, self.path, dict(self.headers), body))
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("X-Amz-Request-Id", "7")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY)

    do_GET = do_PUT = do_HEAD = _serve

    def log_message(self, *_arguments: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()


class Through:
    """Client connected to a store through a proxy."""

    def __init__(
        self, proxy: HttpProxy, seen: list[tuple[str, str, dict[str, str], bytes]]
    ) -> None:
        self.proxy, self.seen = proxy, seen

    def ask(
        self,
        method: str = "GET",
        body: bytes | None = None,
        path: str = "/b/a%3D%2B%C3%BC%20x?list-type=2",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=10)
        try:
            connection.request(
                method, path, body, {"Authorization": "AWS4", "Connection": "keep-alive"}
            )
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()


@pytest.fixture
def through() -> Iterator[Through]:
    kind = type("OwnStore", (Store,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as store:
        store.daemon_threads = True
        threading.Thread(target=store.serve_forever, args=(0.02,), daemon=True).start()
        with HttpProxy(store.server_address[1]) as proxy:
            yield Through(proxy, kind.seen)
        store.shutdown()


def test_without_faults_requests_and_responses_are_unchanged(through: Through) -> None:
    status, headers, body = through.ask("PUT", BODY)
    assert (status, headers["X-Amz-Request-Id"], body) == (200, "7", BODY)
    ((method, path, seen, arrived),) = through.seen
    assert (method, path, arrived) == ("PUT", "/b/a%3D%2B%C3%BC%20x?list-type=2", BODY)
    assert (seen["Host"], seen["Authorization"]) == (f"127.0.0.1:{through.proxy.port}", "AWS4")
    assert set(seen) == {"Host", "Authorization", "Content-Length", "Accept-Encoding"}
    assert through.ask("HEAD")[1]["Content-Length"] == str(len(BODY))
    assert through.proxy.counts == {"requests": 2}


def test_status_fault_does_not_reach_the_store(through: Through) -> None:
    through.proxy.faults = (
        HttpFault(Kind.STATUS, Chance(times=1), status=429, retry_after_seconds=3),
    )
    status, headers, body = through.ask("PUT", BODY)
    assert (status, headers["Retry-After"]) == (429, "3")
    assert b"<Code>TooManyRequests</Code>" in body
    assert through.seen == []
    assert through.ask()[0] == 200
    assert through.proxy.counts == {"requests": 2, Kind.STATUS: 1}


def test_fault_affects_only_the_given_methods(through: Through) -> None:
    through.proxy.faults = (HttpFault(Kind.STATUS, methods=frozenset({"PUT"})),)
    assert through.ask("GET")[0] == 200
    assert through.ask("PUT", b"x")[0] == 503


def test_slow_response_arrives(through: Through) -> None:
    through.proxy.faults = (HttpFault(Kind.SLOW, seconds=0.2),)
    began = time.monotonic()
    assert through.ask()[2] == BODY
    assert time.monotonic() - began >= 0.2
    assert through.proxy.counts[Kind.SLOW] == 1


def test_hang_ends_with_the_fault(through: Through) -> None:
    through.proxy.faults = (HttpFault(Kind.HANG),)
    timer = threading.Timer(0.3, lambda: setattr(through.proxy, "faults", ()))
    timer.start()
    with pytest.raises(ConnectionError):
        through.ask()
    timer.join()
    assert through.proxy.counts[Kind.HANG] == 1
    assert through.seen == []


def test_request_is_reset_within_its_body(through: Through) -> None:
    through.proxy.faults = (HttpFault(Kind.REQUEST_RESET, body_bytes=70_000),)
    with pytest.raises(ConnectionError):
        through.ask("PUT", BODY)
    assert through.seen == []
    assert through.proxy.counts[Kind.REQUEST_RESET] == 1


def test_response_is_reset_within_its_body(through: Through) -> None:
    through.proxy.faults = (HttpFault(Kind.ANSWER_RESET, body_bytes=70_000),)
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        through.ask()
    assert through.proxy.counts[Kind.ANSWER_RESET] == 1


def test_response_is_lost_after_the_request(through: Through) -> None:
    through.proxy.faults = (HttpFault(Kind.ANSWER_LOST, Chance(times=1)),)
    with pytest.raises(ConnectionError):
        through.ask("PUT", BODY)
    assert [arrived for *_, arrived in through.seen] == [BODY]
    assert through.ask()[2] == BODY
    assert through.proxy.counts[Kind.ANSWER_LOST] == 1


def test_unavailable_store_resets_the_client(through: Through) -> None:
    with HttpProxy(1) as proxy, pytest.raises(ConnectionError):
        Through(proxy, []).ask()
