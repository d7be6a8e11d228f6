"""`thumbwheel data crawl`: the command line of the crawler."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from durable_files.files import make_directory
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.settings import CONTACT, CrawlSettings, Signal
from training.corpus.crawl.urls import canonical_url
from training.corpus.document import CorpusError
from training.corpus.sources.config import CRAWL_LOG, LATEST_CRAWL

if TYPE_CHECKING:
    from training.corpus.crawl.crawler import Crawl
    from training.corpus.crawl.frontier import Frontier

SUMMARY = "download pages of allowed hosts into WARC files, with a log of each URL"
MAX_SEED_BYTES = 64 << 20
FOLDER_DIGITS = 4
QUIET_SECONDS = 30.0
SHOWN_SEEDS = 20
# Options with a number: option, field of CrawlSettings, type and description.
NUMBERS: tuple[tuple[str, str, type, str], ...] = (
    ("--depth", "depth", int, "links from a seed to a page"),
    ("--pages", "pages", int, "stored pages"),
    ("--host-pages", "host_pages", int, "stored pages of one host"),
    ("--delay", "delay_seconds", float, "seconds between two requests to a host"),
    ("--concurrency", "concurrency", int, "requests to one host at the same time"),
    ("--total-concurrency", "total_concurrency", int, "requests at the same time"),
    ("--timeout", "timeout_seconds", float, "seconds for a response"),
    ("--wait", "wait_seconds", float, "seconds to wait for a host that asks for it, at most"),
    ("--page-bytes", "page_bytes", int, "bytes of a page, decompressed"),
    ("--file-bytes", "file_bytes", int, "bytes of a WARC file"),
)
# Options that allow what was refused, by fate.
REMEDIES = {
    Fate.PRIVATE_ADDRESS: "--private-addresses",
    Fate.OFF_HOST: "--hosts",
    Fate.NOINDEX: "--ignore noindex",
    Fate.NOAI: "--ignore noai",
    Fate.TDM: "--ignore tdm",
}
DEFAULTS = {field.name: field.default for field in fields(CrawlSettings)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--seeds",
        nargs="+",
        required=True,
        metavar="URL|FILE",
        help="first pages: URLs, or files with a URL in each line",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    identity = parser.add_mutually_exclusive_group(required=True)
    identity.add_argument(
        "--contact",
        metavar="MAIL|URL",
        help="address of the operator, part of the User-Agent for the owners of sites",
    )
    identity.add_argument(
        "--agent",
        help='whole User-Agent with a contact, as in "ExampleBot/1.0 (+https://example.org/bot)"',
    )
    parser.add_argument(
        "--hosts",
        nargs="+",
        default=[],
        metavar="HOST",
        help='allowed hosts, "*.example.org" for all below a domain (default: those of the seeds)',
    )
    for option, name, kind, about in NUMBERS:
        default = DEFAULTS[name]
        parser.add_argument(
            option, dest=name, type=kind, default=default, help=f"{about} (default: {default:,})"
        )
    parser.add_argument(
        "--ignore",
        nargs="+",
        default=[],
        choices=[str(one) for one in Signal],
        help="opt-out signals of pages that are not obeyed; robots.txt always is",
    )
    parser.add_argument("--no-sitemaps", action="store_true", help="do not read sitemaps")
    parser.add_argument(
        "--private-addresses",
        action="store_true",
        help="allow hosts with loopback and private addresses",
    )
    parser.add_argument(
        "--recrawl",
        action="store_true",
        help="crawl once more after a finished crawl; unchanged pages are not transferred again",
    )


def run(options: argparse.Namespace) -> int:
    """Crawl, or continue an interrupted crawl in the same folder.

    Returns:
        0 if the crawl is finished, 1 if it stored no page, 128 and the signal's number after an
        interruption. A finished crawl without any page is repeated.

    Raises:
        CorpusError: a setting is wrong, or the folder belongs to another crawl.
    """
    settings = settings_of(options)
    with locked(options.out):
        try:
            return crawl_into(settings, options.out, is_recrawl=options.recrawl)
        except (OSError, sqlite3.Error) as error:
            raise CorpusError(
                f"--out: {options.out}: {error}; the same command continues the crawl",
                field="--out",
                reason="UNWRITABLE",
                limit="a writable folder with free space",
            ) from error


def settings_of(options: argparse.Namespace) -> CrawlSettings:
    """Return the settings of the command line.

    Raises:
        CorpusError: a setting is wrong.
    """
    return CrawlSettings(
        seeds=read_seeds(options.seeds),
        agent=options.agent or agent_of(options.contact),
        hosts=tuple(options.hosts),
        depth=options.depth,
        pages=options.pages,
        host_pages=options.host_pages,
        delay_seconds=options.delay_seconds,
        concurrency=options.concurrency,
        total_concurrency=options.total_concurrency,
        timeout_seconds=options.timeout_seconds,
        wait_seconds=options.wait_seconds,
        page_bytes=options.page_bytes,
        file_bytes=options.file_bytes,
        obey=frozenset(Signal) - {Signal(name) for name in options.ignore},
        sitemaps=not options.no_sitemaps,
        private_addresses=options.private_addresses,
    )


def agent_of(contact: str) -> str:
    """Return the User-Agent with a contact.

    Raises:
        CorpusError: the contact is neither a mail address nor a URL.
    """
    if not (CONTACT.fullmatch(contact) or contact.startswith(("http://", "https://"))):
        raise CorpusError(
            "--contact: neither a mail address nor a URL",
            field="--contact",
            limit="a mail address, or a URL with http or https",
        )
    return f"Thumbwheel (+{contact})"


def crawl_into(settings: CrawlSettings, out: Path, *, is_recrawl: bool) -> int:
    """Crawl into the folder of a new or an interrupted crawl, and return the exit status."""
    # These imports take most of a second.
    from training.corpus.crawl.archive import Archive
    from training.corpus.crawl.crawl_log import write_log
    from training.corpus.crawl.crawler import Crawl
    from training.corpus.crawl.download import run_crawl
    from training.corpus.crawl.frontier import Frontier

    earlier = sorted(path for path in out.glob("[0-9]" * FOLDER_DIGITS) if path.is_dir())
    finished = (out / LATEST_CRAWL).resolve().name if (out / LATEST_CRAWL).is_symlink() else ""
    is_continued = bool(earlier) and earlier[-1].name != finished
    if earlier and not is_continued and not is_recrawl and has_pages(out / finished):
        print(f"{out}: this crawl is finished. Crawl once more with --recrawl.", file=sys.stderr)
        return 0
    folder = earlier[-1] if is_continued else out / f"{len(earlier) + 1:0{FOLDER_DIGITS}}"
    make_directory(folder)
    frontier = Frontier(folder)
    previous = out / finished if finished and finished != folder.name else None
    previous_frontier = Frontier(previous) if previous else None
    archive = Archive(folder, settings.file_bytes, settings.agent)
    progress = Progress(is_terminal=sys.stderr.isatty())
    try:
        check_identity(frontier.get("settings"), settings, folder)
        frontier.set("settings", identity_text(settings))
        archive.resume(*frontier.archive_end)
        if is_continued:
            print(f"{folder}: continuing with {frontier.queued():,} URLs queued", file=sys.stderr)
        crawl = Crawl(
            settings,
            frontier,
            archive,
            (previous, previous_frontier) if previous and previous_frontier else None,
            progress.report,
        )
        run_crawl(settings, crawl.run, crawl.stop)
        write_log(frontier, folder / CRAWL_LOG)
        progress.report(crawl, is_last=True)
        counts = {fate: count for fate, count in sorted(frontier.counts().items()) if fate}
        refusals = [] if crawl.stored else list(refusals_of(settings.seeds, frontier))
    finally:
        archive.close()
        frontier.close()
        if previous_frontier:
            previous_frontier.close()
    for fate, count in counts.items():
        print(f"{count:>12,}  {fate}")
    if not crawl.is_finished:
        print(f"{out}: stopped. The same command continues the crawl.", file=sys.stderr)
        return 128 + signal.SIGINT
    point_to(out / LATEST_CRAWL, folder.name)
    print(f"{out / LATEST_CRAWL}: {crawl.stored:,} pages in {folder.name}")
    for line in refusals:
        print(line, file=sys.stderr)
    return 0 if crawl.stored else 1


def has_pages(folder: Path) -> bool:
    """Return True if a crawl has stored a page."""
    from training.corpus.crawl.frontier import Frontier

    with closing(Frontier(folder)) as frontier:
        return bool(frontier.stored_by_host())


def refusals_of(seeds: Sequence[str], frontier: Frontier) -> Iterator[str]:
    """Yield a line for each of the first seeds with the reason why it gave no page."""
    for seed in seeds[:SHOWN_SEEDS]:
        url, fate, value = frontier.outcome(canonical_url(seed) or seed)
        place = seed if url == canonical_url(seed) else f"{seed}, leads to {url}"
        remedy = f" (allow: {REMEDIES[Fate(fate)]})" if fate in REMEDIES else ""
        yield f"{place}: {fate}{f': {value}' if value else ''}{remedy}"
    if (more := len(seeds) - SHOWN_SEEDS) > 0:
        yield f"{more:,} more seeds without a page; the crawl log has them"


class Progress:
    """Progress on standard error: one line that changes on a terminal, else one now and then."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._started = self._shown = time.monotonic()
        self._stored_before: int | None = None

    def report(self, crawl: Crawl, *, is_last: bool = False) -> None:
        """Show the state of a crawl."""
        now = time.monotonic()
        if self._stored_before is None:
            self._stored_before = crawl.stored
        if not (is_last or self._is_terminal or now - self._shown >= QUIET_SECONDS):
            return
        self._shown = now
        busy = sum(bool(host.in_flight) for host in crawl.hosts.values())
        rate = (crawl.stored - self._stored_before) / max(now - self._started, 0.001)
        line = (
            f"{crawl.stored:,} pages, {rate:.1f}/s, {crawl.frontier.queued():,} queued, "
            f"{busy} of {len(crawl.hosts)} hosts busy"
        )
        ends = "\n" if is_last or not self._is_terminal else ""
        print(
            f"\r\033[K{line}" if self._is_terminal else line, end=ends, file=sys.stderr, flush=True
        )


def read_seeds(given: Sequence[str]) -> tuple[str, ...]:
    """Return the URLs of arguments and of the files among them.

    Raises:
        CorpusError: an argument is neither a URL nor a file with a URL in each line.
    """
    seeds: list[str] = []
    for word in given:
        if word.startswith(("http://", "https://")):
            seeds.append(word)
            continue
        file = Path(word)
        try:
            if file.stat().st_size > MAX_SEED_BYTES:
                raise CorpusError(
                    f"--seeds: {file} is too large",
                    field="--seeds",
                    limit=f"{MAX_SEED_BYTES:,} bytes",
                )
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"--seeds: {word} is no URL, and no file in UTF-8 with a URL in each line",
                field="--seeds",
                limit="URLs with http or https, or files",
            ) from error
        for number, line in enumerate(lines, 1):
            if line and not line.startswith("#"):
                if canonical_url(line) is None:
                    raise CorpusError(
                        f"--seeds: {file}: line {number} is no URL",
                        field=f"{file}:{number}",
                        limit="http or https, with a host, at most 2,000 characters",
                    )
                seeds.append(line)
    return tuple(seeds)


def identity_text(settings: CrawlSettings) -> str:
    """Return the settings that determine the set of pages, as stored in the frontier."""
    return json.dumps(settings.identity, sort_keys=True)


def check_identity(stored: str, settings: CrawlSettings, folder: Path) -> None:
    """Check that an interrupted crawl continues with the same settings.

    Raises:
        CorpusError: a setting that determines the set of pages differs.
    """
    wanted = json.loads(identity_text(settings))
    for name, value in (json.loads(stored) if stored else wanted).items():
        if wanted[name] != value:
            raise CorpusError(
                f"--{name.replace('_', '-')}: {folder} began with another value; "
                "continue with the same one, or choose another --out",
                field=f"--{name.replace('_', '-')}",
                reason="MISMATCH",
                limit=str(value)[:200],
            )


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder of a crawl.

    Raises:
        CorpusError: another process holds it, or it is no writable folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CorpusError(
            f"--out: {out}: {error.strerror}", field="--out", limit="a writable folder"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise CorpusError(
            f"--out: another crawl runs in {out}", field="--out", reason="BUSY", limit="one crawl"
        ) from error
    finally:
        os.close(handle)


def point_to(link: Path, name: str) -> None:
    """Let a symbolic link point to a folder beside it, atomically."""
    partial = link.with_name(f"{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(name)
    partial.replace(link)
