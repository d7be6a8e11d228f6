"""A site on loopback with programmable answers, and the crawler as a process."""

from __future__ import annotations

import contextlib
import io
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.training.corpus.crawl.memory_web import AGENT

ROOT = Path(__file__).resolve().parents[4]
Page = str | bytes | Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Site:
    """A site: HTML by path, or a function that answers; others answer 404.

    Attributes:
        paths: paths of all requests.
        on_request: called with the number of each request before its answer.
    """

    pages: dict[str, Page]
    port: int = 0
    paths: list[str] = field(default_factory=list)
    on_request: Callable[[int], None] = lambda _: None

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def serve(pages: dict[str, Page], tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Serve a site during the block, with HTTPS if `tls` is given."""
    site = Site(pages)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            site.paths.append(self.path)
            site.on_request(len(site.paths))
            answer = site.pages.get(self.path)
            # Clients of the tests may close the connection at any time.
            with contextlib.suppress(ConnectionError):
                if callable(answer):
                    answer(self)
                else:
                    send(self, answer or "", status=200 if answer is not None else 404)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def send(
    handler: BaseHTTPRequestHandler,
    body: str | bytes,
    content_type: str = "text/html",
    status: int = 200,
    **headers: str,
) -> None:
    """Send an answer; keywords are headers with "_" for "-"."""
    content = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    for name, value in {"Content-Type": content_type, **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def start_crawl(
    site: Site,
    out: Path,
    *options: str,
    seeds: tuple[str, ...] = ("/",),
    is_private: bool = True,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """Start the crawler on a site, without delays.

    Args:
        is_private: allow private addresses.
        before: called in the new process before the crawler.
    """
    command = [sys.executable, "-m", "training.corpus", "crawl", "--out", str(out)]
    command += ["--seeds", *(site.url(seed) if seed[0] == "/" else seed for seed in seeds)]
    command += ["--agent", AGENT, "--delay", "0", "--concurrency", "4", *options]
    command += ["--private-addresses"] * is_private
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=before
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit status, standard output and standard error of a process."""
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


def log_of(site: Site, out: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of the latest crawl by path."""
    lines = io.StringIO((out / "latest" / "log.jsonl").read_text())
    rows = [json.loads(line) for line in lines]
    return {row["url"].removeprefix(site.url("")): row for row in rows}
