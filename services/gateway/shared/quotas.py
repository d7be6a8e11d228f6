"""The quota book that gateways share: one script a step, so that no interleaving admits more than
the limit.
"""

from collections.abc import Mapping, Sequence

from services.gateway.quota import CHECKS, TURN_RETRY_SECONDS, WINDOWS, Ask, Fill, Limit, Holder, Verdict, Window
from services.gateway.shared.link import Link, Use
from services.gateway.shared.quota_scripts import quota_scripts


class ValkeyBook:
    """See `quotas.SharedBook`. A reservation that is not held within its lease is given back."""

    def __init__(self, link: Link, lease_seconds: float, windows: Mapping[Limit, Window] = WINDOWS) -> None:
        self._link, self._lease_ms = link, int(1000 * lease_seconds)
        self._scripts = quota_scripts(windows)

    async def admit(self, ask: Ask) -> Verdict:
        limits = [ask.most(holder, limit) for holder in Holder for limit in Limit]
        keys, lease_ms = keys_of(ask), self._lease_ms
        reply = await self._link.run(Use.QUOTAS, self._scripts.admit, keys, ask.id, lease_ms, ask.tokens, *limits)
        return _verdict(ask, reply)

    async def hold(self, ask: Ask) -> None:
        reserved = [ask.tokens if ask.most(holder, Limit.TOKENS) else 0 for holder in Holder]
        await self._link.run(Use.QUOTAS, self._scripts.hold, keys_of(ask), ask.id, self._lease_ms, *reserved)

    async def settle(self, ask: Ask, used_tokens: int) -> None:
        await self._link.run(Use.QUOTAS, self._scripts.settle, keys_of(ask), ask.id, used_tokens)


def keys_of(ask: Ask) -> list[str]:
    """The keys of both accounts, the user's first; all of a tenant in one slot of a cluster."""
    tenant = f"tw:{{quota/{ask.caller.tenant}}}"
    accounts = (f"{tenant}:user/{ask.caller.user}", f"{tenant}:tenant")
    return [f"{account}:{name}" for account in accounts for name in ("requests", "tokens", "turns", "held")]


def _verdict(ask: Ask, reply: Sequence[int]) -> Verdict:
    fills = {}
    for place, (holder, limit) in enumerate((holder, limit) for holder in Holder for limit in WINDOWS):
        if ask.most(holder, limit):
            used, reset_ms = reply[2 + 2 * place : 4 + 2 * place]
            fills[holder, limit] = Fill(used, reset_ms / 1000)
    if not reply[0]:
        return Verdict(fills=fills)
    holder, limit = CHECKS[reply[0] - 1]
    retry_seconds = TURN_RETRY_SECONDS if limit is Limit.TURNS else reply[1] / 1000
    return Verdict((holder, limit), retry_seconds, fills)
