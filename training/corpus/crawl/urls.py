"""Canonical form of URLs, hosts in scope, and addresses outside the public internet."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

MAX_URL_CHARS = 2000
KEY_BYTES = 16
DEFAULT_PORTS = {"http": 80, "https": 443}
UNRESERVED = re.compile(r"%([0-9A-Fa-f]{2})")
# Parameters of campaigns and sessions: they change the URL, not the page.
TRACKING = re.compile(
    r"(utm_[a-z]+|gclid|dclid|fbclid|msclkid|yclid|igshid|mc_[ce]id|_ga|"
    r"phpsessid|jsessionid|aspsessionid[a-z]*|cfid|cftoken)(=|$)",
    re.IGNORECASE,
)
SESSION_PATH = re.compile(r";jsessionid=[^/?#;]*", re.IGNORECASE)
# A path with a group of segments more than three times in a row is a loop of relative links.
# Heritrix' PathologicalPathDecideRule has the same rule with two.
MAX_REPEATS = 3
MAX_GROUP = 3
SUPPORTED = re.compile(r"\s*(https?:|[^a-zA-Z]|[a-zA-Z][^:]*([/?#]|$))", re.IGNORECASE)


def canonical_url(url: str, base: str = "", encoding: str = "utf-8") -> str | None:
    """Return the URL under which a page is requested and stored; None for an unusable URL.

    The scheme and the host are in lower case, default port, user name, fragment, dot segments and
    parameters of sessions are removed, and percent-encoding follows RFC 3986 (section 6.2.2).
    The order of other parameters is kept, because servers may depend on it.

    Args:
        base: URL of the page with the link.
        encoding: charset of the page; browsers encode the query of a link with it.
    """
    try:
        joined = urljoin(base, url.strip()) if base else url.strip()
    except ValueError:
        return None
    return _canonical(joined, encoding) if len(joined) <= 4 * MAX_URL_CHARS else None


@functools.lru_cache(maxsize=1 << 15)
def _canonical(url: str, encoding: str) -> str | None:
    # Imported here, because the options of `data crawl` are described without its packages.
    from w3lib.url import safe_url_string

    try:
        parts = urlsplit(safe_url_string(url, encoding))
        host, port = (parts.hostname or "").rstrip("."), parts.port
        path = remove_dot_segments(SESSION_PATH.sub("", parts.path))
    except (ValueError, LookupError):
        return None
    if parts.scheme not in DEFAULT_PORTS or not host:
        return None
    if ":" in host:
        host = f"[{host}]"
    if port and port != DEFAULT_PORTS[parts.scheme]:
        host = f"{host}:{port}"
    query = "&".join(word for word in parts.query.split("&") if not TRACKING.match(word))
    found = urlunsplit((parts.scheme, host, normal_escapes(path), normal_escapes(query), ""))
    return found if len(found) <= MAX_URL_CHARS else None


def spellings(url: str) -> tuple[str, ...]:
    """Return a URL as given, in canonical form, and in this form with or without its last slash."""
    canonical = canonical_url(url) or url
    slashed = canonical.removesuffix("/") if canonical.endswith("/") else f"{canonical}/"
    return tuple(dict.fromkeys((url, canonical, canonical if "?" in canonical else slashed)))


def is_web_link(href: str) -> bool:
    """Return True if a link may lead to a page: no mailto, javascript, data or other scheme."""
    return bool(SUPPORTED.match(href))


def normal_escapes(text: str) -> str:
    """Return text with unreserved characters unescaped and other escapes in upper case."""

    def normal(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        is_unreserved = character.isascii() and (character.isalnum() or character in "-._~")
        return character if is_unreserved else found[0].upper()

    return UNRESERVED.sub(normal, text)


def remove_dot_segments(path: str) -> str:
    """Return a path without "." and ".." (RFC 3986, section 5.2.4); "/" if empty."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        plain = unquote(segment)
        if plain == "..":
            kept = kept[:-1] or [""]
        elif plain != ".":
            kept.append(segment)
    if unquote(segments[-1]) in (".", "..") and kept[-1:] != [""]:
        kept.append("")
    found = "/".join(kept)
    return found if found.startswith("/") else f"/{found}"


def url_key(url: str) -> bytes:
    """Return the key of a canonical URL in the frontier; keys also give the order of requests."""
    return hashlib.sha256(url.encode()).digest()[:KEY_BYTES]


def host_of(url: str) -> str:
    """Return the host of a canonical URL, with the port unless it is the default; "" without."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def is_repeating(url: str) -> bool:
    """Return True if one to three path segments occur more than three times in a row."""
    segments = urlsplit(url).path.split("/")[1:]
    for size in range(1, MAX_GROUP + 1):
        run = 0
        for index in range(size, len(segments)):
            run = run + 1 if segments[index] and segments[index] == segments[index - size] else 0
            if run >= size * MAX_REPEATS:
                return True
    return False


# Networks that `ipaddress` calls global: metadata of Azure and Oracle Cloud (also excluded by the
# chart, `thumbwheel.everyAddress`), and IPv6 addresses that stand for IPv4 ones (NAT64, Teredo,
# 6to4) or for a site.
SPECIAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("168.63.129.16/32", "192.0.0.0/24"),
        *("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10"),
    )
)


def is_private(address: str) -> bool:
    """Return True for an IP address outside the public internet; False for a host name."""
    try:
        found = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    is_special = any(found in network for network in SPECIAL_NETWORKS)
    return is_special or not found.is_global or found.is_multicast


class Scope:
    """Allowed hosts.

    Args:
        hosts: names with the port unless it is the default; "*.example.org" allows each host
            below the domain on the default port.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        names = [host.strip().lower().rstrip(".") for host in hosts]
        self.exact = frozenset(name for name in names if not name.startswith("*."))
        self.suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    def allows(self, host: str) -> bool:
        """Return True if the host of a canonical URL is allowed."""
        return host in self.exact or bool(self.suffixes and host.endswith(self.suffixes))
