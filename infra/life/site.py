"""Site on loopback for the crawler: manuals of Debian packages, openings of Wikipedia articles."""

from __future__ import annotations

import html
import http.server
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path

from infra.install.documentation import MANUALS

ADDRESS = "127.0.0.1"
ARTICLES = "articles"
PAGE_ARTICLES = 8
# Pages in other languages, which no page in English links to.
TRANSLATIONS = tuple(f"handbook/{code}/index.html" for code in ("de-DE", "fr-FR", "es-ES"))
# A rule for robots, so that the crawl shows obedience.
ROBOTS = "User-agent: *\nDisallow: /python/whatsnew/\n"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>
<nav><a href="index.html">All pages</a></nav>
<main><h1>{title}</h1>
{content}
</main>
<footer>Openings of articles of the English Wikipedia, CC BY-SA 4.0.</footer>
</body></html>
"""


class SiteError(Exception):
    """The site cannot be served."""


def manual_seeds() -> list[str]:
    """Return the paths of the first pages of all manuals."""
    return [*(f"{manual.name}/{manual.start}" for manual in MANUALS), *TRANSLATIONS]


def article_seeds() -> list[str]:
    """Return the path of the list of articles."""
    return [f"{ARTICLES}/index.html"]


def write_site(folder: Path, manuals: Path, articles: Sequence[Mapping[str, str]]) -> None:
    """Write the articles as pages beside links to the manuals.

    Args:
        manuals: folder with a subfolder for each of MANUALS.
        articles: each with title, topic and extract.
    """
    pages = folder / ARTICLES
    pages.mkdir(parents=True, exist_ok=True)
    for manual in MANUALS:
        link = folder / manual.name
        link.unlink(missing_ok=True)
        link.symlink_to(manuals / manual.name)
    (folder / "robots.txt").write_text(ROBOTS)
    links: list[str] = []
    ordered = sorted(articles, key=lambda article: (article["topic"], article["title"]))
    for topic, group in groupby(ordered, key=lambda article: article["topic"]):
        members = list(group)
        for start in range(0, len(members), PAGE_ARTICLES):
            name = f"{len(links):05}.html"
            title = f"{topic or 'Other'}, part {start // PAGE_ARTICLES + 1}"
            content = "\n".join(
                f"<h2>{html.escape(one['title'])}</h2>\n<p>{html.escape(one['extract'])}</p>"
                for one in members[start : start + PAGE_ARTICLES]
            )
            page = PAGE.format(title=html.escape(title), content=content)
            (pages / name).write_text(page, encoding="utf-8")
            links.append(f'<li><a href="{name}">{html.escape(title)}</a></li>')
    listed = PAGE.format(title="All pages", content=f"<ul>{''.join(links)}</ul>")
    (pages / "index.html").write_text(listed, encoding="utf-8")


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[int]:
    """Serve a folder on loopback during the block.

    Args:
        port: 0 chooses a free one.

    Yields:
        the port.

    Raises:
        SiteError: the port is in use.
    """
    try:
        server = _Server((ADDRESS, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise SiteError(
            f"port: {port} is in use, and an interrupted crawl continues with the same addresses; "
            "free it, or choose another folder with --work"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Log nothing: the crawler has its own log."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Ignore connections that the crawler closed."""
