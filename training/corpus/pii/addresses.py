"""Detection of e-mail addresses and IP addresses."""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Iterator

from training.corpus.pii.kinds import Kind, Span
from training.corpus.pii.labels import IP, OTHER, WORD_CHARACTERS, labels_before

# RFC 5321, 4.5.3.1: 64 octets before the sign, 255 after it.
MAX_LOCAL, MAX_DOMAIN = 64, 255
# Characters of an unquoted local part (RFC 5322, atext) without those that more often surround an
# address: quotes, slash, braces, pipe, "=", "*", "&".
LOCAL = frozenset(string.ascii_letters + string.digits + ".!#$%'+?^_~-")
LOCAL_CHARACTERS = "".join(sorted(LOCAL))
DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})"
)
# "jane [dot] doe (at) example (dot) org"; the dots may be written plainly.
OPEN, CLOSE = r"\s?[\[({<]\s?", r"\s?[\])}>]\s?"
DISGUISED_AT = re.compile(rf"{OPEN}(?:at|AT|@){CLOSE}")
DISGUISED_DOT = re.compile(rf"{OPEN}(?:dot|DOT|punkt){CLOSE}")
DOT = rf"(?:\.|{DISGUISED_DOT.pattern})"
DISGUISED_LOCAL = re.compile(
    rf"(?<![\w.+-])[A-Za-z0-9][\w+-]{{0,63}}(?:{DOT}[\w+-]{{1,64}}){{0,3}}$"
)
DISGUISED_DOMAIN = re.compile(rf"(?:[A-Za-z0-9-]{{1,63}}{DOT}){{1,6}}[A-Za-z]{{2,24}}\b")
MAX_DISGUISED = 96
# Users of version control over SSH, and endings of file names such as logo@2x.png.
SERVICE_USERS = frozenset({"git", "hg", "svn", "cvs"})
FILE_ENDINGS = frozenset(
    "png jpg jpeg gif svg webp bmp ico tif tiff js css html htm json xml txt pdf yaml yml toml "
    "service socket timer target local localhost internal lan localdomain".split()
)
MESSAGE_ID = re.compile(r"(?:message-id|in-reply-to|references):\s*<?$", re.IGNORECASE)

IPV4 = re.compile(
    rf"[0-9](?<![{WORD_CHARACTERS}.].)(?<![{WORD_CHARACTERS}][-+/].)"
    r"[0-9]{0,2}(?:\.[0-9]{1,3}){3}"
    # The last part is the length of a network's prefix.
    rf"(?![{WORD_CHARACTERS}-]|\.[{WORD_CHARACTERS}]|/[12]?[0-9](?![0-9]))"
)
# Two colons with at most four hexadecimal digits between them; the address extends around them.
IPV6_PART = re.compile(r":[0-9A-Fa-f]{0,4}:")
IPV6_CHARACTERS = string.hexdigits + ":."
MAX_IPV6 = 45
# Numbers of versions and sections rarely begin above this value.
MAX_VERSION = 30
PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        # RFC 1918, 6598 (carriers), 1122 (this host, loopback), 3927 (link-local).
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        # RFC 4193 (unique local), 4291 (link-local, loopback).
        "fc00::/7",
        "fe80::/10",
        "::1/128",
    )
)
# "This network", multicast, reserved and masks (RFC 1122, 5771, 1112) identify no host.
NO_HOSTS = (ipaddress.ip_network("0.0.0.0/8"), ipaddress.ip_network("224.0.0.0/3"))
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last bits
NETWORK = re.compile(r"/(?!128)[0-9]{1,3}")
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # RFC 4291, 2.4


def find_mails(text: str) -> Iterator[Span]:
    """Yield the e-mail addresses of a text."""
    at = text.find("@")
    while at >= 0:
        if span := _mail_at(text, at):
            yield span
        at = text.find("@", at + 1)
    for sign in DISGUISED_AT.finditer(text):
        domain = DISGUISED_DOMAIN.match(text, sign.end())
        first = max(0, sign.start() - MAX_DISGUISED)
        if domain and (local := DISGUISED_LOCAL.search(text[first : sign.start()])):
            value = DISGUISED_DOT.sub(".", f"{local[0]}@{domain[0]}").lower()
            if value.rpartition(".")[2] not in FILE_ENDINGS:
                yield Span(first + local.start(), domain.end(), Kind.EMAIL, value)


def _mail_at(text: str, at: int) -> Span | None:
    found = DOMAIN.match(text, at + 1, at + 1 + MAX_DOMAIN)
    if not found:
        return None
    left = text[max(0, at - MAX_LOCAL - 1) : at]
    local = left[len(left.rstrip(LOCAL_CHARACTERS)) :].lstrip(".!#$%'+?^~-_")
    start = at - len(local)
    if not local or len(local) > MAX_LOCAL or local.endswith("."):
        return None
    domain, end = found[0].lower(), found.end()
    before, after = text[max(0, start - 16) : start], text[end : end + 2]
    if (
        domain.rpartition(".")[2] in FILE_ENDINGS
        or local.lower() in SERVICE_USERS
        # user@host:path of rsync and ssh, and the user in a URL. "mailto:" has no slash.
        or (len(after) == 2 and after[0] == ":" and (after[1] in "/~." or after[1].isalnum()))
        or before.endswith("//")
        # @user@host of the fediverse, and a letter that is no part of an address.
        or (before and (before[-1] == "@" or (before[-1].isalpha() and before[-1].isascii())))
        or MESSAGE_ID.search(before)
    ):
        return None
    return Span(start, end, Kind.EMAIL, f"{local}@{domain}".lower())


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Yield the addresses of hosts; the kind says whether they are private."""
    for found in IPV4.finditer(text):
        if span := _ipv4(text, found):
            yield span
    end = 0
    for found in IPV6_PART.finditer(text):
        if found.start() < end:
            continue
        left = text[max(0, found.start() - MAX_IPV6) : found.start()]
        start = found.start() - len(left) + len(left.rstrip(IPV6_CHARACTERS))
        right = text[found.end() : found.end() + MAX_IPV6]
        end = found.end() + len(right) - len(right.lstrip(IPV6_CHARACTERS))
        if span := _ipv6(text, start, end):
            yield span


def _ipv4(text: str, found: re.Match[str]) -> Span | None:
    try:
        address = ipaddress.IPv4Address(found[0])
    except ValueError:
        return None
    octets = address.packed
    labels = labels_before(text, found.start())
    before = text[max(0, found.start() - 3) : found.start()]
    is_host = IP in labels or before.endswith(("//", "@"))
    if not is_host and (OTHER in labels or octets[0] <= MAX_VERSION or octets[3] == 0):
        return None
    return _address_span(found.start(), found.end(), address)


def _ipv6(text: str, start: int, end: int) -> Span | None:
    """Return the address that fills a run of hexadecimal digits, colons and dots."""
    written = text[start:end].rstrip(".")
    if not written.endswith("::"):
        written = written.rstrip(":")
    end = start + len(written)
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    if any(letter.isalnum() or letter == "_" for letter in around):
        return None
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        return None
    # "2024::10" is a slice; addresses have letters or more than two groups.
    if written.replace(":", "").isdecimal() and len(written.split(":")) <= 3:
        return None
    if NETWORK.match(text, end):
        return None
    if address in TRANSLATED or address.ipv4_mapped:
        return _address_span(start, end, ipaddress.IPv4Address(address.packed[-4:]))
    return _address_span(start, end, address)


def _address_span(
    start: int, end: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> Span | None:
    if any(address in network for network in NO_HOSTS):
        return None
    if any(address in network for network in PRIVATE_NETWORKS):
        return Span(start, end, Kind.PRIVATE_IP_ADDRESS, address.compressed)
    if address.version == 6 and address not in GLOBAL_IPV6:
        return None
    return Span(start, end, Kind.IP_ADDRESS, address.compressed)
