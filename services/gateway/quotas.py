"""How much a user and a tenant may ask: requests a minute, tokens a day, turns at once; the same
over all gateways.

Tokens are reserved before a turn (an estimate of the prompt, and the longest answer) and settled
after it with what was used. While the shared book is away a stated policy holds: this process' own
book, which counts what passed here, or a refusal.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import ClassVar, Protocol

from services.chassis.errors import ResourceExhaustedError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.local_quotas import LocalBook
from services.gateway.metrics import QUOTA_AWAY, QUOTA_DECISIONS
from services.gateway.quota import Allowance, Ask, Fill, Holder, Limit, Verdict
from services.gateway.request import TurnRequest, UserInput
from services.gateway.shared_store import StoreAwayError

# Three in English and in code, fewer in other scripts: too many tokens reserved is settled, too few
# would overshoot.
BYTES_A_TOKEN = 3
RENEWALS_A_LEASE = 3
REASONS = {
    Limit.REQUESTS: "RATE_LIMITED",
    Limit.TOKENS: "TOKEN_QUOTA_EXCEEDED",
    Limit.TURNS: "TOO_MANY_TURNS",
}
WORDS = {
    Limit.REQUESTS: "requests a minute",
    Limit.TOKENS: "tokens a day",
    Limit.TURNS: "turns at once",
}
OWNERS = {Holder.USER: "a user", Holder.TENANT: "the tenant"}


class WhenAway(StrEnum):
    """What holds while the shared book is away."""

    LOCAL = "local"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Level:
    """How full a limit is: of two that hold, the one that is nearer. `reset_seconds`: until all of
    it is there again.
    """

    limit: int
    remaining: int
    reset_seconds: float


Standing = Mapping[Limit, Level]


class QuotaError(ResourceExhaustedError):
    """A quota is used up; names it."""

    is_load = False

    def __init__(
        self, holder: Holder, limit: Limit, most: int, retry_seconds: float, standing: Standing
    ) -> None:
        super().__init__(
            f"the quota of {WORDS[limit]} is used up",
            reason=REASONS[limit],
            limit=f"{most} {WORDS[limit]} of {OWNERS[holder]}",
            retry_seconds=retry_seconds,
        )
        self.standing = standing


class SharedBook(Protocol):
    """The book that all gateways share. Everything raises StoreAwayError."""

    async def admit(self, ask: Ask) -> Verdict:
        """Decide and write down, in one step."""

    async def hold(self, ask: Ask) -> None:
        """The turn still runs; a book that has lost it writes it down again."""

    async def settle(self, ask: Ask, used_tokens: int) -> None:
        """The turn has ended; again is harmless."""


@dataclass(frozen=True)
class QuotaRules:
    """Who may what. `reply_tokens`: the longest answer of a request that does not say."""

    user: Allowance
    tenant: Allowance
    overrides: Mapping[str, tuple[Allowance, Allowance]] = field(default_factory=dict)
    reply_tokens: int = 1024

    def ask(self, caller: Caller, request: TurnRequest) -> Ask:
        """What a request needs, and what its caller may."""
        user, tenant = self.overrides.get(caller.tenant, (self.user, self.tenant))
        tokens = prompt_tokens(request) + (request.sampling.max_tokens or self.reply_tokens)
        return Ask(uuid.uuid4().hex, caller, tokens, {Holder.USER: user, Holder.TENANT: tenant})


class Reservation:
    """What a turn has taken of its quotas, until it is settled."""

    NONE: ClassVar["Reservation"]

    def __init__(self, standing: Standing, settle: Callable[[int], None]) -> None:
        self.standing = standing
        self._settle: Callable[[int], None] | None = settle

    def settle(self, used_tokens: int) -> None:
        """Give back what was not used; only the first call counts."""
        settle, self._settle = self._settle, None
        if settle:
            settle(used_tokens)


Reservation.NONE = Reservation({}, lambda _: None)


class Quotas:
    """Admits turns."""

    def __init__(
        self,
        rules: QuotaRules,
        shared: SharedBook | None = None,
        when_away: WhenAway = WhenAway.LOCAL,
        lease_seconds: float = 30,
    ) -> None:
        self._rules, self._shared, self._when_away = rules, shared, when_away
        self._lease_seconds = lease_seconds
        self._local = LocalBook()
        self._running: dict[str, Ask] = {}
        self._ended: dict[str, tuple[Ask, int, float]] = {}
        self._news = asyncio.Event()

    async def admit(self, caller: Caller, request: TurnRequest) -> Reservation:
        """Reserve what the request needs.

        Raises:
            QuotaError: a limit is reached; named, with the time to wait.
            UnavailableError: the shared book is away and the policy is to refuse.
        """
        ask = self._rules.ask(caller, request)
        if not ask.is_limited:
            return Reservation({}, lambda _: None)
        verdict = await self._decide(ask)
        standing = _standing(ask, verdict)
        if verdict.refused:
            holder, limit = verdict.refused
            QUOTA_DECISIONS.labels(limit, holder, "refused").inc()
            most = ask.most(holder, limit)
            # What is more than the whole limit never fits: no use in waiting.
            retry_seconds = verdict.retry_seconds if ask.needs(limit) <= most else 0.0
            raise QuotaError(holder, limit, most, retry_seconds, standing)
        QUOTA_DECISIONS.labels("", "", "admitted").inc()
        self._running[ask.id] = ask
        return Reservation(standing, partial(self._settle, ask))

    async def serve(self) -> None:
        """Keep reservations alive and settle those of ended turns, for ever."""
        renew_at = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, renew_at - time.monotonic())):
                    await self._news.wait()
            self._news.clear()
            await self.flush()
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + self._lease_seconds / RENEWALS_A_LEASE
                await self._renew()

    async def flush(self) -> None:
        """Settle what has ended; what the shared book does not take before the reservation expires
        is lost to it.
        """
        for ask, used_tokens, until in list(self._ended.values()):
            with suppress(StoreAwayError):
                if self._shared and time.monotonic() < until:
                    await self._shared.settle(ask, used_tokens)
                self._ended.pop(ask.id, None)

    async def _renew(self) -> None:
        if self._shared:
            await asyncio.gather(
                *map(self._shared.hold, self._running.values()), return_exceptions=True
            )

    async def _decide(self, ask: Ask) -> Verdict:
        if self._shared is None:
            return self._local.admit(ask)
        try:
            verdict = await self._shared.admit(ask)
        except StoreAwayError as error:
            QUOTA_AWAY.labels(self._when_away).inc()
            if self._when_away is WhenAway.REFUSE:
                raise UnavailableError(
                    "quotas cannot be checked now", reason="QUOTA_STORE_AWAY", retry_seconds=1
                ) from error
            return self._local.admit(ask)
        if not verdict.refused:
            # Should the shared book go away, this process knows what passed here.
            self._local.record(ask)
        return verdict

    def _settle(self, ask: Ask, used_tokens: int) -> None:
        del self._running[ask.id]
        self._local.settle(ask, used_tokens)
        if self._shared:
            self._ended[ask.id] = (ask, used_tokens, time.monotonic() + self._lease_seconds)
            self._news.set()


def prompt_tokens(request: TurnRequest) -> int:
    """An estimate of what the request itself brings; what a stored conversation adds is settled
    afterwards.
    """
    if not isinstance(request.action, UserInput):
        return 0
    texts = (request.action.text, *(message.text for message in request.action.history))
    return sum(map(estimated_tokens, texts))


def estimated_tokens(text: str) -> int:
    """Tokens of a text without the model's tokenizer."""
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def _standing(ask: Ask, verdict: Verdict) -> Standing:
    levels: dict[Limit, Level] = {}
    for (holder, limit), fill in verdict.fills.items():
        level = _level(ask.most(holder, limit), fill)
        if limit not in levels or level.remaining < levels[limit].remaining:
            levels[limit] = level
    return levels


def _level(most: int, fill: Fill) -> Level:
    return Level(most, max(0, most - fill.used), fill.reset_seconds)
