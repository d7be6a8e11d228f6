"""Filter of URLs by lists of domains and URLs, and by words.

Decisions are those of datatrove 0.10.1 (`URLFilter`, with which FineWeb was made), except that
entries of the lists that its filter cannot match have an effect: URLs, which the list contains
without a scheme; addresses in place of a host name; domains between the host and the registered
domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from training.corpus.document import Stage, Verdict
from training.corpus.quality.url_lists import ADULT, UrlLists

SOFT_WORDS = 2  # of the soft list; fewer are no reason
MAX_HOSTS = 50_000  # recently seen hosts, about 20 MB

_SEPARATORS = re.compile(r"[^a-zA-Z0-9]+")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_AUTHORITY = re.compile(r"(?:[^/?#]*//)?[^/?#]*")


class UrlFilter:
    """Filter of URLs. Memory of the lists is mapped and shared by all processes of a machine.

    Args:
        lists: from `open_lists`.
        categories: names of categories of the lists.

    Raises:
        CorpusError: a category does not exist.
    """

    def __init__(self, lists: UrlLists, categories: Sequence[str] = (ADULT,)) -> None:
        from tldextract import TLDExtract

        # The public suffix list of the package; nothing is downloaded or written.
        self._split_host = TLDExtract(suffix_list_urls=(), cache_dir=None)
        self._domains = [(one, found) for one in categories for found in lists.open(one, "domains")]
        self._urls = [(one, found) for one in categories for found in lists.open(one, "urls")]
        words = lists.words if ADULT in categories else {}
        self._banned = words.get("banned_words", frozenset())
        self._soft = words.get("soft_banned_words", frozenset())
        self._subwords = sorted(words.get("banned_subwords", frozenset()))
        self._host_verdict = lru_cache(MAX_HOSTS)(self._judge_host)

    def __call__(self, url: str) -> Verdict | None:
        """Return the verdict that drops the page, or None. A missing URL is no reason."""
        if not url:
            return None
        match = _AUTHORITY.match(url)
        if verdict := self._host_verdict(match.group() if match else ""):
            return verdict
        bare = _SCHEME.sub("", url, count=1)
        for category, urls in self._urls:
            if url in urls or bare in urls:
                return Verdict(Stage.URL, "listed url", category)
        parts = _SEPARATORS.split(url)
        if not self._banned.isdisjoint(parts):
            return Verdict(Stage.URL, "banned word")
        soft = len(self._soft.intersection(parts))
        if soft >= SOFT_WORDS:
            return Verdict(Stage.URL, "soft banned words", f"{soft} (fewer than {SOFT_WORDS})")
        joined = "".join(parts).lower()
        if any(word in joined for word in self._subwords):
            return Verdict(Stage.URL, "banned subword")
        return None

    def _judge_host(self, authority: str) -> Verdict | None:
        for rule, host in self._names(authority):
            for category, domains in self._domains:
                if host in domains:
                    return Verdict(Stage.URL, rule, category)
        return None

    def _names(self, authority: str) -> Iterator[tuple[str, str]]:
        """Yield the names of a host under which a list can contain it, with the rule."""
        parts = self._split_host(authority)
        if not parts.fqdn:
            # An address, or a name without a public suffix.
            if parts.domain:
                yield "listed host", ".".join(filter(None, (parts.subdomain, parts.domain)))
            return
        if registered := parts.top_domain_under_public_suffix:
            yield "listed domain", registered
        yield "listed subdomain", parts.fqdn
        parent = parts.fqdn
        while registered and parent.count(".") > registered.count(".") + 1:
            parent = parent.partition(".")[2]
            yield "listed parent domain", parent
