"""Limits per user and tenant, over all gateways: requests and feedback events per minute, tokens
per day, erasures per hour, turns. Calls per minute and additional readers of turns cost processor
time of one gateway only, so each gateway counts its own.

A turn first reserves tokens (estimated prompt plus longest answer). Its actual usage is settled
afterwards. While the shared store is unavailable, the outage policy applies: local counts of this
process, or rejection of all turns and feedback.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import ClassVar, Protocol

from services.chassis.errors import ResourceExhaustedError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.identity.authentication import OWNER
from services.gateway.metrics import QUOTA_DECISIONS, QUOTA_OUTAGES
from services.gateway.quotas.quota import (
    TURN_RETRY_SECONDS,
    Allowance,
    Holder,
    Limit,
    LocalQuotaStore,
    QuotaDecision,
    QuotaRequest,
    accounts,
)
from services.gateway.shared import StoreUnavailableError
from services.gateway.turns.request import Regenerate, TurnRequest

# English text and code have about three bytes per token, other scripts fewer. Excess reservations
# are settled later, but a reservation too small would exceed the quota.
BYTES_PER_TOKEN = 3
RENEWALS_PER_LEASE = 3
REASONS = {
    Limit.REQUESTS: "RATE_LIMITED",
    Limit.TOKENS: "TOKEN_QUOTA_EXCEEDED",
    Limit.TURNS: "TOO_MANY_TURNS",
    Limit.FEEDBACK: "FEEDBACK_RATE_LIMITED",
    Limit.READERS: "TOO_MANY_READERS",
    Limit.CALLS: "CALLS_RATE_LIMITED",
    Limit.ERASURES: "ERASURES_RATE_LIMITED",
}
LIMIT_TEXT = {
    Limit.REQUESTS: "requests per minute",
    Limit.TOKENS: "tokens per day",
    Limit.TURNS: "concurrent turns",
    Limit.FEEDBACK: "feedback events per minute",
    Limit.READERS: "concurrent readers of turns",
    Limit.CALLS: "calls per minute",
    Limit.ERASURES: "erasures per hour",
}
HOLDER_TEXT = {Holder.USER: "a user", Holder.KEY: "the key", Holder.TENANT: "the tenant"}


class OutagePolicy(StrEnum):
    """Behaviour while the shared quota store is unavailable."""

    LOCAL = "local"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Level:
    """State of a limit. If user and tenant are both limited, the state of the tighter limit.

    `reset_seconds` is the time until the full limit is available.
    """

    limit: int
    remaining: int
    reset_seconds: float


QuotaLevels = Mapping[Limit, Level]


class QuotaError(ResourceExhaustedError):
    """A quota is exhausted. The error names the limit and its owner."""

    is_load = False

    def __init__(
        self, holder: Holder, limit: Limit, maximum: int, retry_seconds: float, levels: QuotaLevels
    ) -> None:
        super().__init__(
            f"the quota of {LIMIT_TEXT[limit]} is used up",
            reason=REASONS[limit],
            limit=f"{maximum} {LIMIT_TEXT[limit]} of {HOLDER_TEXT[holder]}",
            retry_seconds=retry_seconds,
        )
        self.levels = levels


class SharedQuotaStore(Protocol):
    """Quota store of all gateways. All methods raise StoreUnavailableError."""

    async def admit(self, quota_request: QuotaRequest) -> QuotaDecision:
        """Decide and record in one atomic step."""

    async def hold(self, quota_request: QuotaRequest) -> None:
        """Extend the lease of a running turn. A lost reservation is recorded again."""

    async def settle(self, quota_request: QuotaRequest, used_tokens: int) -> None:
        """Replace the reservation of an ended turn by its usage. Idempotent."""


@dataclass(frozen=True)
class QuotaRules:
    """Limits per user and tenant, with overrides by tenant name.

    `reply_tokens` is the reservation for the answer if a request sets no max_tokens. A shared key
    has the limits of `shared_key_users` users, over all of its end users, and the owner of the
    installation those of `owner_users`.
    """

    user: Allowance
    tenant: Allowance
    overrides: Mapping[str, tuple[Allowance, Allowance]] = field(default_factory=dict)
    reply_tokens: int = 1024
    shared_key_users: int = 10
    owner_users: int = 1

    def request_for(self, caller: Caller, request: TurnRequest) -> QuotaRequest:
        """Return the quota request of a turn."""
        tokens = prompt_tokens(request) + (request.sampling.max_tokens or self.reply_tokens)
        needs = {Limit.REQUESTS: 1, Limit.TURNS: 1, Limit.TOKENS: tokens}
        return QuotaRequest(uuid.uuid4().hex, caller, needs, self.allowances(caller))

    def allowances(self, caller: Caller) -> Mapping[Holder, Allowance]:
        """Return the limits of a caller, of a shared key, and of the caller's tenant."""
        user, tenant = self.overrides.get(caller.tenant, (self.user, self.tenant))
        limits = {
            Holder.USER: user.times(self.owner_users) if caller == OWNER else user,
            Holder.KEY: user.times(self.shared_key_users),
            Holder.TENANT: tenant,
        }
        return {holder: limits[holder] for holder in accounts(caller)}


class Reservation:
    """Reservation of a turn, until settled."""

    NONE: ClassVar["Reservation"]

    def __init__(self, levels: QuotaLevels, settle: Callable[[int], None]) -> None:
        self.levels = levels
        self._settle: Callable[[int], None] | None = settle

    def settle(self, used_tokens: int) -> None:
        """Return unused tokens. Only the first call has an effect."""
        settle, self._settle = self._settle, None
        if settle:
            settle(used_tokens)


Reservation.NONE = Reservation({}, lambda _: None)


class Quotas:
    """Admits turns, feedback events, erasures, readers and calls within the quotas."""

    def __init__(
        self,
        rules: QuotaRules,
        shared: SharedQuotaStore | None = None,
        outage_policy: OutagePolicy = OutagePolicy.LOCAL,
        lease_seconds: float = 30,
    ) -> None:
        self._rules, self._shared, self._outage_policy = rules, shared, outage_policy
        self._lease_seconds = lease_seconds
        self._local = LocalQuotaStore()
        self._running: dict[str, QuotaRequest] = {}
        self._ended: dict[str, tuple[QuotaRequest, int, float]] = {}
        self._wakeup = asyncio.Event()
        self._readers: Counter[tuple[Holder, str]] = Counter()

    async def admit(self, caller: Caller, request: TurnRequest) -> Reservation:
        """Reserve the quota needed by a request.

        Raises:
            QuotaError: A limit is reached. The error has the time to wait.
            UnavailableError: The shared store is unavailable and the policy is to reject.
        """
        quota_request = self._rules.request_for(caller, request)
        if not quota_request.is_limited:
            return Reservation({}, lambda _: None)
        levels = await self._admit(quota_request)
        self._running[quota_request.id] = quota_request
        return Reservation(levels, partial(self._settle, quota_request))

    async def count(self, caller: Caller, limit: Limit) -> None:
        """Count one of a resource with a window: a feedback event, an erasure or a call.

        Raises:
            QuotaError: See `admit`.
            UnavailableError: See `admit`; not for a call.
        """
        quota_request = QuotaRequest("", caller, {limit: 1}, self._rules.allowances(caller))
        if quota_request.is_limited:
            await self._admit(quota_request)

    @contextmanager
    def reading(self, caller: Caller) -> Iterator[None]:
        """Count an additional reader of a turn for the duration of the block.

        Readers cost processor time of this process only, so they are not counted in other gateways.

        Raises:
            QuotaError: The user or the tenant has too many readers.
        """
        counted = accounts(caller)
        allowances = self._rules.allowances(caller)
        for account in counted.items():
            holder, maximum = account[0], allowances[account[0]].readers_at_once
            if maximum and self._readers[account] >= maximum:
                QUOTA_DECISIONS.labels(Limit.READERS, holder, "refused").inc()
                raise QuotaError(holder, Limit.READERS, maximum, TURN_RETRY_SECONDS, {})
        self._readers.update(counted.items())
        try:
            yield
        finally:
            for account in counted.items():
                self._readers[account] -= 1
                if not self._readers[account]:
                    del self._readers[account]

    async def _admit(self, quota_request: QuotaRequest) -> QuotaLevels:
        """Count a request. Returns the state of its limits."""
        decision = await self._decide(quota_request)
        levels: dict[Limit, Level] = {}
        for (holder, limit), window in decision.usage.items():
            maximum = quota_request.maximum(holder, limit)
            level = Level(maximum, max(0, maximum - window.used), window.reset_seconds)
            # Clients see the tighter limit of user and tenant.
            if limit not in levels or level.remaining < levels[limit].remaining:
                levels[limit] = level
        if decision.refused:
            holder, limit = decision.refused
            QUOTA_DECISIONS.labels(limit, holder, "refused").inc()
            maximum = quota_request.maximum(holder, limit)
            # A request above the whole limit never fits, so a retry is not recommended.
            fits = quota_request.needs[limit] <= maximum
            retry_seconds = decision.retry_seconds if fits else 0.0
            raise QuotaError(holder, limit, maximum, retry_seconds, levels)
        QUOTA_DECISIONS.labels("", "", "admitted").inc()
        return levels

    async def serve(self) -> None:
        """Renew reservations and settle those of ended turns, until cancelled."""
        renew_at = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, renew_at - time.monotonic())):
                    await self._wakeup.wait()
            self._wakeup.clear()
            await self.flush()
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + self._lease_seconds / RENEWALS_PER_LEASE
                if self._shared:
                    # A failed renewal is retried before the lease ends, which allows two failures.
                    await asyncio.gather(
                        *map(self._shared.hold, self._running.values()), return_exceptions=True
                    )

    async def flush(self) -> None:
        """Settle the ended turns.

        A settlement is dropped when the lease of its reservation has expired.
        """
        for quota_request, used_tokens, until in list(self._ended.values()):
            with suppress(StoreUnavailableError):
                if self._shared and time.monotonic() < until:
                    await self._shared.settle(quota_request, used_tokens)
                # Reached only after success or expiry. An outage keeps the entry for a retry.
                self._ended.pop(quota_request.id, None)

    async def _decide(self, quota_request: QuotaRequest) -> QuotaDecision:
        if self._shared is None or Limit.CALLS in quota_request.needs:
            return self._local.admit(quota_request)
        try:
            decision = await self._shared.admit(quota_request)
        except StoreUnavailableError as error:
            QUOTA_OUTAGES.labels(self._outage_policy).inc()
            if self._outage_policy is OutagePolicy.REFUSE:
                raise UnavailableError(
                    "the quota store is unavailable", reason="QUOTA_STORE_AWAY", retry_seconds=1
                ) from error
            return self._local.admit(quota_request)
        if not decision.refused:
            # Local counts are the fallback during an outage of the shared store.
            self._local.record(quota_request)
        return decision

    def _settle(self, quota_request: QuotaRequest, used_tokens: int) -> None:
        del self._running[quota_request.id]
        self._local.settle(quota_request, used_tokens)
        if self._shared:
            self._ended[quota_request.id] = (
                quota_request,
                used_tokens,
                time.monotonic() + self._lease_seconds,
            )
            self._wakeup.set()


def prompt_tokens(request: TurnRequest) -> int:
    """Estimate the tokens in the request. The stored conversation is settled afterwards."""
    if isinstance(request.action, Regenerate):
        return 0
    texts = (request.action.text, *(message.text for message in request.history))
    return sum(map(estimated_tokens, texts))


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text without the model's tokenizer."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
