"""Fates of URLs: the values of the column `fate` in the crawl log."""

from __future__ import annotations

from enum import StrEnum


class Fate(StrEnum):
    """Result for a URL. `docs/data-path.md` describes each, with the content of `value`."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    SITEMAP = "sitemap"
    REDIRECT = "redirect"
    CANONICAL = "canonical duplicate"
    ROBOTS = "robots"
    ROBOTS_UNREACHABLE = "robots unreachable"
    NOINDEX = "noindex"
    NOAI = "noai"
    TDM = "tdm"
    NOFOLLOW = "nofollow"
    OFF_HOST = "off host"
    PRIVATE_ADDRESS = "private address"
    TOO_DEEP = "too deep"
    REPEATING_PATH = "repeating path"
    REDIRECT_LIMIT = "redirect limit"
    PAGE_LIMIT = "page limit"
    HOST_LIMIT = "host limit"
    SITEMAP_LIMIT = "sitemap limit"
    STATUS = "http status"
    CONTENT_TYPE = "content type"
    TOO_LARGE = "too large"
    TRUNCATED = "truncated"
    DECODING = "content encoding"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    HOST_UNREACHABLE = "host unreachable"
    HOST_BUSY = "host busy"
    INVALID = "invalid url"


STORED = (Fate.STORED, Fate.UNCHANGED)
# Fates from the way to a URL, not from the URL: another way may still lead to a request.
REVIVABLE = (Fate.NOFOLLOW, Fate.REDIRECT_LIMIT, Fate.TOO_DEEP)
