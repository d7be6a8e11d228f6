"""Frontier: each URL of a crawl with its state, in SQLite.

The file is the visited set, the queue and the crawl log. Memory does not grow with the crawl. Each
commit also holds the end of the archive, so that a killed crawl continues from a consistent state:
records after that end belong to URLs that are still pending, and are cut off.

URLs are requested by (depth, round, key). A round ends when all its URLs are done; URLs found
meanwhile belong to later rounds. The order of requests to a host therefore depends neither on
response times nor on interruptions, and limits cut each crawl of the same pages at the same place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from training.corpus.crawl.archive import Position
from training.corpus.crawl.fates import REVIVABLE, STORED, Fate
from training.corpus.crawl.urls import host_of, url_key

FILE = "frontier.sqlite3"
CACHE_KIB = 16 << 10


class Kind(IntEnum):
    """Content of a URL."""

    PAGE = 0
    SITEMAP = 1


class State(IntEnum):
    """State of a URL. `WAITING` pages named another URL as canonical, which is not yet done."""

    PENDING = 0
    WAITING = 1
    DONE = 2


@dataclass(frozen=True, slots=True)
class Target:
    """A URL to request.

    Attributes:
        depth: number of links from a seed.
        hops: redirects and canonical URLs since the last link.
        referrer: URL of the page with the link; "" for seeds.
        ignores_canonical: store the page although it names another canonical URL, because that
            one could not be stored.
        round: round of the request, set by the frontier.
    """

    url: str
    depth: int
    referrer: str = ""
    hops: int = 0
    kind: Kind = Kind.PAGE
    ignores_canonical: bool = False
    round: int = 0

    @property
    def key(self) -> bytes:
        return url_key(self.url)

    @property
    def host(self) -> str:
        return host_of(self.url)


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a URL.

    Attributes:
        value: reason in words or a number with its limit; another URL for redirects and canonical
            URLs.
        status: HTTP status; 0 without a response.
        content_type: media type of the response.
        size: bytes of the decompressed body.
        fetched: time of the response, ISO 8601 in UTC.
        position: place of the record in the archive.
        etag, last_modified: validators for the next crawl.
    """

    fate: Fate
    value: str = ""
    status: int = 0
    content_type: str = ""
    size: int = 0
    fetched: str = ""
    position: Position | None = None
    etag: str = ""
    last_modified: str = ""


SCHEMA = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS urls (
    key BLOB PRIMARY KEY,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    kind INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    round INTEGER NOT NULL,
    hops INTEGER NOT NULL,
    referrer TEXT NOT NULL,
    ignores_canonical INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL,
    fate TEXT NOT NULL DEFAULT '',
    value TEXT NOT NULL DEFAULT '',
    status INTEGER NOT NULL DEFAULT 0,
    content_type TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL DEFAULT 0,
    fetched TEXT NOT NULL DEFAULT '',
    file TEXT NOT NULL DEFAULT '',
    offset INTEGER NOT NULL DEFAULT 0,
    length INTEGER NOT NULL DEFAULT 0,
    etag TEXT NOT NULL DEFAULT '',
    last_modified TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending ON urls (depth, host, round, key) WHERE state = 0;
CREATE INDEX IF NOT EXISTS waiting ON urls (key) WHERE state = 1;
"""
ADMIT = f"""
INSERT INTO urls (key, url, host, kind, depth, round, hops, referrer, state, fate, value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    depth = excluded.depth, round = excluded.round, hops = excluded.hops,
    referrer = excluded.referrer, state = excluded.state, fate = '', value = ''
WHERE excluded.state = {State.PENDING} AND urls.state = {State.DONE}
    AND urls.fate IN ({", ".join(f"'{fate}'" for fate in REVIVABLE)})
"""  # noqa: S608 - constants only
FINISH = """
UPDATE urls SET state = ?, fate = ?, value = ?, status = ?, content_type = ?, size = ?,
    fetched = ?, file = ?, offset = ?, length = ?, etag = ?, last_modified = ?
WHERE key = ?
"""
LOG_COLUMNS = (
    *("url", "fate", "value", "depth", "referrer", "status", "content_type", "size", "fetched"),
    *("file", "offset", "length"),
)
STORED_FATES = tuple(str(fate) for fate in STORED)


class Frontier:
    """URLs of a crawl.

    Args:
        folder: folder of the crawl; the file is created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / FILE, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        # A crawl commits once per second. After power loss no page is requested a second time.
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.executescript(SCHEMA)
        self._database.execute("BEGIN")
        self.round = int(self.get("round") or 1)

    def get(self, name: str) -> str:
        """Return a value of the crawl; "" if it is not set."""
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set(self, name: str, value: str) -> None:
        """Set a value of the crawl; the next commit makes it durable."""
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))

    @property
    def archive_end(self) -> tuple[str, int]:
        """Return the end of the archive at the last commit; ("", 0) before the first."""
        return self.get("file"), int(self.get("length") or 0)

    def commit(self, file: str, length: int) -> None:
        """Make all changes durable.

        Args:
            file, length: end of the archive, already on disk.
        """
        for name, value in (("file", file), ("length", length), ("round", self.round)):
            self.set(name, str(value))
        self._database.execute("COMMIT")
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Close the file without a commit."""
        self._database.rollback()
        self._database.close()

    def admit(self, targets: Iterable[tuple[Target, Result | None]]) -> None:
        """Add URLs that are new, or that had no chance on an earlier way.

        Args:
            targets: each with its result if it is already known, such as "off host".
        """
        self._database.executemany(
            ADMIT,
            [
                (
                    *(target.key, target.url, target.host, target.kind, target.depth),
                    *(self.round + 1, target.hops, target.referrer),
                    State.PENDING if result is None else State.DONE,
                    "" if result is None else result.fate,
                    "" if result is None else result.value,
                )
                for target, result in targets
            ],
        )

    def finish(self, target: Target, result: Result) -> None:
        """Store the result of a URL."""
        self._store(target, State.DONE, result)

    def wait_for_canonical(self, target: Target, canonical: str) -> None:
        """Postpone the decision on a page that names another URL as canonical."""
        self._store(target, State.WAITING, Result(Fate.CANONICAL, canonical))

    def _store(self, target: Target, state: State, result: Result) -> None:
        place = result.position or Position("", 0, 0)
        row = (
            *(state, result.fate, result.value, result.status, result.content_type, result.size),
            *(result.fetched, place.file, place.offset, place.length),
            *(result.etag, result.last_modified, target.key),
        )
        self._database.execute(FINISH, row)

    def next_round(self) -> int | None:
        """Begin the next round, and return its depth; None if no URL is pending."""
        self._resolve_canonicals()
        row = self._database.execute(
            "SELECT depth FROM urls INDEXED BY pending WHERE state = 0 ORDER BY depth LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        self.round += 1
        return int(row[0])

    def current_depth(self) -> int | None:
        """Return the depth of the interrupted round; None if no URL of the round is pending."""
        (depth,) = self._database.execute(
            "SELECT MIN(depth) FROM urls INDEXED BY pending WHERE state = 0 AND round <= ?",
            (self.round,),
        ).fetchone()
        return None if depth is None else int(depth)

    def hosts(self, depth: int) -> list[str]:
        """Return the hosts with pending URLs in the current round, in order."""
        rows = self._database.execute(
            "SELECT DISTINCT host FROM urls INDEXED BY pending "
            "WHERE state = 0 AND depth = ? AND round <= ? ORDER BY host",
            (depth, self.round),
        )
        return [host for (host,) in rows]

    def pending(self, host: str, depth: int, after: Target | None, count: int) -> list[Target]:
        """Return pending URLs of a host in the current round, in order.

        Args:
            after: last URL of the previous call; None for the first call of a round.
        """
        begin = (after.round, after.key) if after else (-1, b"")
        rows = self._database.execute(
            "SELECT url, depth, referrer, hops, kind, ignores_canonical, round FROM urls "
            "INDEXED BY pending WHERE state = 0 AND depth = ? AND host = ? AND round <= ? "
            "AND (round, key) > (?, ?) ORDER BY round, key LIMIT ?",
            (depth, host, self.round, *begin, count),
        )
        return [
            Target(url, depth, referrer, hops, Kind(kind), bool(ignores), number)
            for url, depth, referrer, hops, kind, ignores, number in rows
        ]

    def queued(self) -> int:
        """Return the number of pending URLs."""
        row = self._database.execute(
            "SELECT COUNT(*) FROM urls INDEXED BY pending WHERE state = 0"
        ).fetchone()
        return int(row[0])

    def abandon(self, result: Result, host: str = "") -> None:
        """Store a result for all pending URLs of a host, or for all that are not done.

        Args:
            host: "" for all hosts.
        """
        condition = "state = 0 AND host = ?" if host else "state != 2 AND host != ?"
        self._database.execute(
            f"UPDATE urls SET state = ?, fate = ?, value = ? WHERE {condition}",  # noqa: S608
            (State.DONE, result.fate, result.value, host),
        )

    def _resolve_canonicals(self) -> None:
        """Decide on waiting pages whose canonical URL is done.

        If that URL was stored, or is a duplicate of a stored page, the waiting page is a duplicate.
        Otherwise the waiting page is requested again and stored. In a cycle of canonical URLs the
        page with the least key is stored.
        """
        rows = self._database.execute("SELECT key, value FROM urls WHERE state = 1 ORDER BY key")
        named = {bytes(key): url_key(value) for key, value in rows}
        for key in list(named):
            chain, end = [key], named[key]
            while end in named and end not in chain:
                chain.append(end)
                end = named[end]
            if end in named:
                if key == min(chain[chain.index(end) :]):
                    self._request_again(key)
                continue
            row = self._database.execute(
                "SELECT state, fate FROM urls WHERE key = ?", (named[key],)
            ).fetchone()
            if row is None or (row[0] == State.DONE and row[1] not in (*STORED, Fate.CANONICAL)):
                self._request_again(key)
            elif row[0] == State.DONE:
                self._database.execute("UPDATE urls SET state = ? WHERE key = ?", (State.DONE, key))

    def _request_again(self, key: bytes) -> None:
        self._database.execute(
            "UPDATE urls SET state = ?, round = ?, ignores_canonical = 1, fate = '', value = '' "
            "WHERE key = ?",
            (State.PENDING, self.round + 1, key),
        )

    def outcome(self, url: str) -> tuple[str, str, str]:
        """Return the last URL of the redirects and canonical URLs of a URL, its fate and value."""
        seen = {url}
        while True:
            row = self._database.execute(
                "SELECT fate, value FROM urls WHERE key = ?", (url_key(url),)
            ).fetchone()
            fate, value = row or ("", "")
            if fate not in (Fate.REDIRECT, Fate.CANONICAL) or value in seen:
                return url, fate, value
            url = value
            seen.add(url)

    def stored_by_host(self) -> dict[str, int]:
        """Return the number of stored pages of each host."""
        rows = self._database.execute(
            "SELECT host, COUNT(*) FROM urls WHERE fate IN (?, ?) GROUP BY host", STORED_FATES
        )
        return dict(rows)

    def counts(self) -> dict[str, int]:
        """Return the number of URLs with each fate; "" counts pending URLs."""
        return dict(self._database.execute("SELECT fate, COUNT(*) FROM urls GROUP BY fate"))

    def sitemaps(self, host: str) -> int:
        """Return the number of sitemaps of a host."""
        row = self._database.execute(
            "SELECT COUNT(*) FROM urls WHERE kind = ? AND host = ?", (Kind.SITEMAP, host)
        ).fetchone()
        return int(row[0])

    def earlier(self, url: str) -> Result | None:
        """Return the result of a stored page, to compare with in the next crawl."""
        row = self._database.execute(
            "SELECT content_type, size, fetched, file, offset, length, etag, last_modified "
            "FROM urls WHERE key = ? AND fate IN (?, ?)",
            (url_key(url), *STORED_FATES),
        ).fetchone()
        if row is None:
            return None
        content_type, size, fetched, file, offset, length, etag, last_modified = row
        return Result(
            *(Fate.UNCHANGED, "", 200, content_type, size, fetched),
            *(Position(file, offset, length), etag, last_modified),
        )

    def log_rows(self) -> Iterator[Mapping[str, object]]:
        """Yield the rows of the crawl log, one for each URL, by key."""
        rows = self._database.execute(f"SELECT {', '.join(LOG_COLUMNS)} FROM urls ORDER BY key")  # noqa: S608 - constants only
        for row in rows:
            yield dict(zip(LOG_COLUMNS, row, strict=True))
