"""OpenID issuers in the settings. Separate from oidc.py, to avoid loading the token libraries."""

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from services.gateway.identity.credential import DEFAULT_SCOPES, Scope

Algorithm = Literal["RS256", "ES256", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class Issuer:
    """An issuer of tokens, and the meaning of its claims.

    `tenant` applies to all users of the issuer. Alternatively, `tenant_claim` names one of
    `tenants`, the only tenants of the issuer. Every token has `scopes`. Each value of `scope_claim`
    adds those of `scopes_by_value`.
    """

    url: str
    audience: str
    tenant: str = ""
    tenant_claim: str = ""
    tenants: frozenset[str] = frozenset()
    user_claim: str = "sub"
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    scope_claim: str = ""
    scopes_by_value: Mapping[str, frozenset[Scope]] = field(default_factory=dict)
    algorithms: Sequence[Algorithm] = ALGORITHMS


def is_safe_url(url: str) -> bool:
    """Return True for HTTPS URLs and for HTTP on loopback addresses."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    with suppress(ValueError):
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    return False
