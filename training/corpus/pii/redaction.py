"""Replacement of personal data by typed placeholders such as <EMAIL_1>.

Placeholders are numbered by kind in order of first occurrence. Equal values of one text, or of the
texts of one conversation, get equal numbers, so that references remain. Numbers start again in the
next text: nothing links two documents.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence

from secret_detection.finding import find_secrets
from training.corpus.pii.addresses import find_ip_addresses, find_mails
from training.corpus.pii.kinds import DEFAULT_KINDS, Kind, Redacted, Span
from training.corpus.pii.numbers import (
    MIN_LONG_DIGITS,
    MIN_PHONE_DIGITS,
    find_bank_accounts,
    find_cards,
    find_ibans,
    find_national_ids,
    parts_with_digits,
)
from training.corpus.pii.phones import find_phones
from training.corpus.pii.regions import regions_of

PLACEHOLDER = re.compile(rf"<({'|'.join(kind.name for kind in Kind)})_([0-9]{{1,6}})>")
# A span that overlaps an accepted one is dropped. Kinds with the better evidence come first.
PRIORITY = {
    kind: rank
    for rank, kind in enumerate(
        (
            Kind.SECRET,
            Kind.EMAIL,
            Kind.IBAN,
            Kind.IP_ADDRESS,
            Kind.PRIVATE_IP_ADDRESS,
            Kind.CARD,
            Kind.NATIONAL_ID,
            Kind.BANK_ACCOUNT,
            Kind.PHONE,
        )
    )
}


def find(
    text: str, language: str = "", kinds: Collection[Kind] = DEFAULT_KINDS, url: str = ""
) -> list[Span]:
    """Return the personal data of a text, in order and without overlaps.

    The time is linear in the length of the text.

    Args:
        language: ISO 639-1 code, which selects numbering plans and identifiers; "" if unknown.
        kinds: kinds to look for.
        url: address of the page, whose top-level domain may name a country.
    """
    found = [*find_mails(text)] if Kind.EMAIL in kinds else []
    if Kind.SECRET in kinds:
        found += (
            Span(secret.start, secret.end, Kind.SECRET, text[secret.start : secret.end])
            for secret in find_secrets(text)
        )
    if not {Kind.IP_ADDRESS, Kind.PRIVATE_IP_ADDRESS}.isdisjoint(kinds):
        found += find_ip_addresses(text)
    parts = parts_with_digits(text)
    if parts:
        regions = regions_of(language, url)
        home = regions[0] if regions else ""
        for part in parts:
            if part.digits >= MIN_LONG_DIGITS:
                found += find_ibans(text, part)
                found += find_cards(text, part)
            if Kind.BANK_ACCOUNT in kinds:
                found += find_bank_accounts(text, part)
            if Kind.NATIONAL_ID in kinds:
                found += find_national_ids(text, part, home)
            if Kind.PHONE in kinds and part.digits >= MIN_PHONE_DIGITS:
                found += find_phones(text, part, regions)
    accepted: list[Span] = []
    for span in sorted(found, key=lambda s: (PRIORITY[s.kind], s.start, -s.end)):
        at = bisect_left(accepted, span.start, key=lambda s: s.start)
        is_free = (at == 0 or accepted[at - 1].end <= span.start) and (
            at == len(accepted) or accepted[at].start >= span.end
        )
        if span.kind in kinds and is_free:
            accepted.insert(at, span)
    return accepted


def redact(
    text: str, language: str = "", kinds: Collection[Kind] = DEFAULT_KINDS, url: str = ""
) -> Redacted:
    """Replace the personal data of a text; see `find` for the arguments."""
    return redact_all((text,), language, kinds, url)[0]


def redact_all(
    texts: Sequence[str],
    language: str = "",
    kinds: Collection[Kind] = DEFAULT_KINDS,
    url: str = "",
    public_texts: Sequence[str] = (),
) -> list[Redacted]:
    """Replace the personal data of texts that belong together, such as those of a conversation.

    Equal values get equal placeholders in all of them. Placeholders that a text already has are
    kept, and their numbers are not used again.

    Args:
        public_texts: texts whose values are replaced nowhere, except for secrets.
    """
    public = {
        (span.kind, span.value)
        for text in public_texts
        for span in find(text, language, kinds, url)
        if span.kind is not Kind.SECRET
    }
    used: Counter[Kind] = Counter()
    for text in texts:
        for name, number in PLACEHOLDER.findall(text) if "<" in text else ():
            used[Kind[name]] = max(used[Kind[name]], int(number))
    placeholders: dict[tuple[Kind, str], str] = {}
    results = []
    for text in texts:
        parts, end = [], 0
        counts: Counter[Kind] = Counter()
        for span in find(text, language, kinds, url):
            key = span.kind, span.value
            if key in public:
                continue
            if key not in placeholders:
                used[span.kind] += 1
                placeholders[key] = f"<{span.kind.name}_{used[span.kind]}>"
            parts += [text[end : span.start], placeholders[key]]
            end = span.end
            counts[span.kind] += 1
        results.append(Redacted("".join((*parts, text[end:])), dict(counts)))
    return results
