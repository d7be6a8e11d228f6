"""Quota store in Valkey. One atomic script per operation excludes admission above the limit."""

from collections.abc import Mapping

from services.gateway.quotas.quota import (
    CHECK_ORDER,
    TURN_RETRY_SECONDS,
    WINDOWS,
    Holder,
    Limit,
    QuotaDecision,
    QuotaRequest,
    Window,
    WindowUsage,
)
from services.gateway.shared.quota_scripts import quota_scripts
from services.gateway.shared.valkey_client import Use, ValkeyClient


class ValkeyQuotaStore:
    """Implements `quotas.SharedQuotaStore`.

    A reservation expires unless renewed within its lease.
    """

    def __init__(
        self, valkey: ValkeyClient, lease_seconds: float, windows: Mapping[Limit, Window] = WINDOWS
    ) -> None:
        self._valkey, self._lease_ms = valkey, int(1000 * lease_seconds)
        self._scripts = quota_scripts(windows)

    async def admit(self, request: QuotaRequest) -> QuotaDecision:
        limits = [request.maximum(holder, limit) for holder in Holder for limit in Limit]
        keys, lease_ms = keys_of(request), self._lease_ms
        reply = await self._valkey.run(
            Use.QUOTAS, self._scripts.admit, keys, request.id, lease_ms, request.tokens, *limits
        )
        usage = {}
        for place, (holder, limit) in enumerate(
            (holder, limit) for holder in Holder for limit in WINDOWS
        ):
            if request.maximum(holder, limit):
                used, reset_ms = reply[2 + 2 * place : 4 + 2 * place]
                usage[holder, limit] = WindowUsage(used, reset_ms / 1000)
        if not reply[0]:
            return QuotaDecision(usage=usage)
        holder, limit = CHECK_ORDER[reply[0] - 1]
        retry_seconds = TURN_RETRY_SECONDS if limit is Limit.TURNS else reply[1] / 1000
        return QuotaDecision((holder, limit), retry_seconds, usage)

    async def hold(self, request: QuotaRequest) -> None:
        reserved = [
            request.tokens if request.maximum(holder, Limit.TOKENS) else 0 for holder in Holder
        ]
        await self._valkey.run(
            Use.QUOTAS, self._scripts.hold, keys_of(request), request.id, self._lease_ms, *reserved
        )

    async def settle(self, request: QuotaRequest, used_tokens: int) -> None:
        await self._valkey.run(
            Use.QUOTAS, self._scripts.settle, keys_of(request), request.id, used_tokens
        )


def keys_of(request: QuotaRequest) -> list[str]:
    """Return the keys of both accounts, user first. A tenant's keys share one cluster slot."""
    tenant = f"tw:{{quota/{request.caller.tenant}}}"
    accounts = (f"{tenant}:user/{request.caller.user}", f"{tenant}:tenant")
    # Same order as the constants of the Lua scripts.
    return [
        f"{account}:{name}"
        for account in accounts
        for name in ("requests", "tokens", "turns", "held")
    ]
