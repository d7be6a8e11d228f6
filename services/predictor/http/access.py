"""Access to the inference port, decided by the head of a request.

Only programs with the key may call. Browsers are the main threat: a page can send `text/plain` to
any address without a CORS preflight, and can make its own host name point to this server (DNS
rebinding).
"""

import hmac
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from services.predictor.errors import ContentTypeError, ForbiddenError, UnauthenticatedError

# Probes of the kubelet and of KServe send neither the key nor a host name of the list.
OPEN_PATHS = frozenset({"/health", "/v2/health/live", "/v2/health/ready"})
JSON_TYPE = "application/json"
LOCALHOST = "localhost"


@dataclass(frozen=True)
class AccessRules:
    """Rules of the inference port.

    Args:
        key: key of the callers.
        require_key: False to accept calls without a key; a wrong key is refused.
        allowed_hosts: host names in lower case; `.example.com` for all names below.
        hosts_setting: variable of allowed_hosts, named in the refusal; "" without such a setting.
    """

    key: str
    require_key: bool = True
    allowed_hosts: tuple[str, ...] = ()
    hosts_setting: str = "TW_PREDICTOR_ALLOWED_HOSTS"

    def check(self, request: web.Request) -> None:
        """Check host, origin, key and content type before the body is read.

        Raises:
            ForbiddenError: the host is not allowed, or a web page sent the request.
            UnauthenticatedError: the key is missing or wrong.
            ContentTypeError: a POST request declares another type than JSON.
        """
        if request.path in OPEN_PATHS:
            return
        if not self._is_allowed(request.headers.get("Host", "")):
            hosts = ", ".join((LOCALHOST, "IP addresses", *self.allowed_hosts))
            setting = f" ({self.hosts_setting})" if self.hosts_setting else ""
            raise ForbiddenError(
                f"the host name of the request is not allowed; allowed: {hosts}{setting}",
                field="Host",
                reason="HOST_NOT_ALLOWED",
                limit=hosts,
            )
        # Browsers send Origin with each POST request and with each request of a script to another
        # origin; other clients do not send it.
        if "Origin" in request.headers:
            raise ForbiddenError(
                "web pages may not call the model server; they call the gateway",
                field="Origin",
                reason="ORIGIN_NOT_ALLOWED",
            )
        self._check_key(request.headers.get("Authorization"))
        if request.method == "POST" and request.content_type != JSON_TYPE:
            raise ContentTypeError(
                f"the Content-Type must be {JSON_TYPE}", field="Content-Type", limit=JSON_TYPE
            )

    def _check_key(self, header: str | None) -> None:
        if header is None and not self.require_key:
            return
        scheme, _, key = (header or "").partition(" ")
        # Bytes, because compare_digest refuses text outside of ASCII.
        given = key.strip().encode(errors="surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self.key.encode()):
            raise UnauthenticatedError(
                "the key of the model server is missing or wrong; "
                "send it as `Authorization: Bearer KEY`",
                field="Authorization",
            )

    def _is_allowed(self, header: str) -> bool:
        try:
            host = (urlsplit(f"//{header}").hostname or "").removesuffix(".")
        except ValueError:
            return False
        with suppress(ValueError):
            # Only a name can be made to point here. A page that was itself loaded from this address
            # does not exist.
            ip_address(host)
            return True
        return host == LOCALHOST or any(
            host.endswith(allowed) if allowed.startswith(".") else host == allowed
            for allowed in self.allowed_hosts
        )
