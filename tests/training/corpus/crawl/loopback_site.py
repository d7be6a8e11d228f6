"""A site on loopback with programmable answers, and the crawler as a process."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.training.corpus.crawl.memory_web import AGENT
from training.corpus.__main__ import main

PRELOADED = ["training.corpus.crawl.command", "training.corpus.crawl.crawler"]
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


@dataclass
class CrawlProcess:
    """The crawler in a process of its own, with its output in files."""

    process: ForkServerProcess
    output: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


def start_crawl(
    site: Site,
    out: Path,
    *options: str,
    seeds: tuple[str, ...] = ("/",),
    is_private: bool = True,
    largest_file: int | None = None,
) -> CrawlProcess:
    """Start the crawler on a site, without delays.

    The process is forked from one that has imported scrapy, as the import takes longer than most
    crawls of the tests.

    Args:
        is_private: allow private addresses.
        largest_file: limit of the size of a file in bytes.
    """
    arguments = ["crawl", "--out", str(out)]
    arguments += ["--seeds", *(site.url(seed) if seed[0] == "/" else seed for seed in seeds)]
    arguments += ["--agent", AGENT, "--delay", "0", "--concurrency", "4", *options]
    arguments += ["--private-addresses"] * is_private
    output = Path(tempfile.mkdtemp(dir=out.parent))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    process = processes.Process(target=_crawl, args=(arguments, output, largest_file))
    process.start()
    return CrawlProcess(process, output)


def _crawl(arguments: list[str], output: Path, largest_file: int | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        with (output / name).open("w") as opened:
            os.dup2(opened.fileno(), number)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.exit(main(arguments))


def finish(started: CrawlProcess) -> tuple[int | None, str, str]:
    """Return the exit status, standard output and standard error of a process."""
    started.process.join(timeout=250)
    out, err = ((started.output / name).read_text() for name in ("out", "err"))
    return started.process.exitcode, out, err


def log_of(site: Site, out: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of the latest crawl by path."""
    lines = io.StringIO((out / "latest" / "log.jsonl").read_text())
    rows = [json.loads(line) for line in lines]
    return {row["url"].removeprefix(site.url("")): row for row in rows}
