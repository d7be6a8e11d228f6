"""OpenAI-compatible endpoints of others: their URL in settings, and their key in a file."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

URL = r"^https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?$"
INSIDE_SUFFIXES = (".svc", ".svc.cluster.local", ".localhost")
LOOPBACK = ("127.0.0.1", "::1")
KEY = re.compile(r"[!-~]{1,4096}")


class UnreadableKeyError(Exception):
    """The file with the key of an endpoint cannot be read, or has no key."""


def _require_encryption(url: str) -> str:
    host = urlsplit(url).hostname or ""
    # A name without dots is that of a Service; an IPv6 address has no dots either.
    is_inside = not re.search(r"[.:]", host) or host.endswith(INSIDE_SUFFIXES)
    if url.startswith("http://") and not (is_inside or host in LOOPBACK):
        raise PydanticCustomError(
            "unencrypted", "must begin with https://, except for a host inside the cluster"
        )
    return url


# Base URL of an endpoint, to which `/chat/completions` is appended.
EndpointUrl = Annotated[
    str, StringConstraints(max_length=2048, pattern=URL), AfterValidator(_require_encryption)
]


def read_key(file: Path | None) -> str:
    """Return the key of an endpoint, "" without a file. Blocking.

    Read for each request, so that a changed secret needs no restart.

    Raises:
        UnreadableKeyError: the file cannot be read, or has no key.
    """
    if file is None:
        return ""
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableKeyError from error
    if not KEY.fullmatch(key):
        raise UnreadableKeyError
    return key
