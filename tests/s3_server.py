"""A small S3 server in memory with faults on demand.

Features that a real server lacks are pages of two keys, arbitrary error codes, lost objects, and
failed deletions. A PUT overwrites regardless of its condition, as in some stores; `conditions` and
`overwritten` count such requests.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 2
MODIFIED = "2026-11-25T09:00:00.000Z"
STATUS = {
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "SlowDown": 503,
    "InternalError": 500,
    "TooManyRequests": 429,
}


class S3Server:
    """State of the server.

    Args:
        refusals: error codes returned first, one for each request.
        headers: headers of error responses.
        keeps_deleted: accept deletions without effect.
        garbles: store changed bytes.
        authorize: error code for the headers of a request, or None.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.requests = Counter[str]()
        self.connections = self.conditions = self.overwritten = 0
        self.refusals: list[str] = []
        self.headers: dict[str, str] = {}
        self.keeps_deleted = self.garbles = False
        self.authorize: Callable[[Message], str | None] = lambda _headers: None

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of a request."""
        self.requests[method] += 1
        if self.refusals:
            return self._refusal(self.refusals.pop(0))
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if method == "PUT" and not key:
            self.buckets[bucket] = {}
            return 200, b""
        if bucket not in self.buckets:
            return self._refusal("NoSuchBucket")
        objects = self.buckets[bucket]
        if not key:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            return 200, b"" if method == "HEAD" else _page(objects, query)
        if method == "PUT":
            self.overwritten += key in objects
            objects[key] = body[::-1] if self.garbles else body
        elif method == "DELETE":
            if not self.keeps_deleted:
                objects.pop(key, None)
            return 204, b""
        elif key not in objects:
            return self._refusal("NoSuchKey")
        return 200, objects[key] if method == "GET" else b""

    def _refusal(self, code: str) -> tuple[int, bytes]:
        return STATUS.get(
            code, 301 if code == "PermanentRedirect" else 403
        ), f"<Error><Code>{code}</Code></Error>".encode()


def _page(objects: dict[str, bytes], query: dict[str, str]) -> bytes:
    """Return one page of ListObjectsV2."""
    after = query.get("continuation-token", "")
    keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")) and key > after)
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{MODIFIED}</LastModified>"
        f"<Size>{len(objects[key])}</Size><ETag>{md5(objects[key]).hexdigest()}</ETag></Contents>"
        for key in keys[:PAGE]
    )
    more = (
        f"<NextContinuationToken>{escape(keys[PAGE - 1])}</NextContinuationToken>"
        if len(keys) > PAGE
        else ""
    )
    truncated = str(bool(more)).lower()
    text = (
        f"<ListBucketResult><Name>b</Name><IsTruncated>{truncated}</IsTruncated>"
        f"{more}{contents}</ListBucketResult>"
    )
    return text.encode()


@contextmanager
def serving(store: S3Server) -> Iterator[int]:
    """Serve the store on loopback and yield the port."""

    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            store.conditions += "If-None-Match" in self.headers
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if code := store.authorize(self.headers):
                store.refusals.insert(0, code)
            status, answer = store.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            if status >= 300:
                self.send_header("Content-Type", "application/xml")
                for name, value in store.headers.items():
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_PUT = do_HEAD = do_DELETE = _serve

        def log_message(self, *_arguments: object) -> None:
            pass

        def handle(self) -> None:
            store.connections += 1
            with suppress(OSError):
                super().handle()

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Connection) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield listener.server_address[1]
        listener.shutdown()
