"""Types that the steps of the data path exchange.

A reader yields an `Item` for each record of its input. Each step takes a document and returns it,
perhaps with another text, or a verdict that drops it. The document log has one row for each item.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from training.errors import DetailedError

ID_DIGITS = 32


class CorpusError(DetailedError, ValueError):
    """Error for input, settings or output of the data path; texts of documents never occur in it.

    `field` is the setting, or "file:record".
    """

    reason = "INVALID_CORPUS"


class Stage(StrEnum):
    """Stages of the data path, in order. `KEPT` is the verdict on a document in the result."""

    READ = "read"
    URL = "url"
    EXTRACTION = "extraction"
    LANGUAGE = "language"
    QUALITY = "quality"
    CONTENT = "content"
    EXACT_DUPLICATE = "exact duplicate"
    NEAR_DUPLICATE = "near duplicate"
    DECONTAMINATION = "decontamination"
    MIXING = "mixing"
    REMOVAL = "removal"
    KEPT = "kept"


DUPLICATE_STAGES = (Stage.EXACT_DUPLICATE, Stage.NEAR_DUPLICATE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Reason for dropping a document.

    Attributes:
        rule: name of the rule within the stage, for example "gopher stop words".
        value: measured value with its limit, for example "1 (at least 2)"; never text of the
            document.
    """

    stage: Stage
    rule: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a record.

    Attributes:
        id: identifier from `record_id`; "" until the whole record is read.
        url: address of the page; "" if the input has none.
        source: name of the source in the configuration.
        licence: SPDX identifier or free text; "" if unknown.
        date: time of the crawl, ISO 8601; "" if unknown.
        collection: source that the record itself names, for example in Dolma; "" if it names none.
    """

    id: str
    url: str = ""
    source: str = ""
    licence: str = ""
    date: str = ""
    collection: str = ""

    @property
    def host(self) -> str:
        """Return the host of the URL in lower case, without port; "" without a usable URL."""
        return host_of(self.url)


def host_of(url: str) -> str:
    """Return the host of a URL in lower case, without port; "" without a usable URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Page:
    """A downloaded page, before the extraction of its text.

    Attributes:
        content: body of the response, decompressed.
        content_type: value of the HTTP header; "" if absent.
    """

    origin: Origin
    content: bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A text of natural language.

    Attributes:
        language: ISO 639-1 code, or 639-3 where there is none; "" before identification.
    """

    origin: Origin
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that gave no page and no document, for example a truncated one."""

    origin: Origin
    verdict: Verdict


Item = Page | Document | Rejected


def record_id(item: Item) -> str:
    """Return the identifier of a record: a hash of its source, URL and content.

    Neither the file nor the place in the file counts, and no other column: not the date, which
    differs in each crawl. A rejected record has its verdict in place of a content.
    """
    head, content = [item.origin.source, item.origin.url], b""
    if isinstance(item, Page):
        # Equal bytes of another type or encoding give another text.
        head, content = [*head, item.content_type], item.content
    elif isinstance(item, Document):
        content = item.text.encode()
    else:
        head += [item.verdict.stage, item.verdict.rule, item.verdict.value]
    digest = hashlib.sha256(json.dumps(head).encode() + b"\0")
    digest.update(content)
    return digest.hexdigest()[:ID_DIGITS]


def find_surrogate(text: str) -> int:
    """Return the place of an unpaired surrogate, which JSON can spell but UTF-8 cannot; else -1."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return -1
