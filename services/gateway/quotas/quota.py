"""Types of quotas, common to the local and the shared quota store, and the local store.

A window slides in steps. A count leaves the window after its whole step has left. No minute or day
ever contains more than the limit, and capacity returns at most one step late.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from enum import StrEnum

from cachetools import LRUCache

from services.chassis.identity import Caller


class Holder(StrEnum):
    """Owner of a quota."""

    USER = "user"
    KEY = "key"  # a shared key, over all of its end users
    TENANT = "tenant"


class Limit(StrEnum):
    """A resource limited by quotas."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    TURNS = "turns"
    FEEDBACK = "feedback"
    READERS = "readers"
    CALLS = "calls"
    ERASURES = "erasures"


@dataclass(frozen=True)
class Window:
    """A sliding window, divided into steps."""

    span_ms: int
    step_ms: int

    def first_step(self, now_ms: int) -> int:
        """Return the oldest step with a part inside the window."""
        # A step counts fully while any part of it is in the window, so counts err on the high side.
        return (now_ms - self.span_ms) // self.step_ms

    def leaves_in_ms(self, step: int, now_ms: int) -> int:
        """Return the milliseconds until a step has left the window."""
        return (step + 1) * self.step_ms + self.span_ms - now_ms


WINDOWS: Mapping[Limit, Window] = {
    Limit.REQUESTS: Window(60_000, 2_000),
    Limit.TOKENS: Window(86_400_000, 1_800_000),
    Limit.FEEDBACK: Window(60_000, 2_000),
    Limit.CALLS: Window(60_000, 2_000),
    Limit.ERASURES: Window(3_600_000, 120_000),
}


@dataclass(frozen=True)
class Allowance:
    """Limits of one user or tenant. 0 means unlimited."""

    requests_per_minute: int = 0
    tokens_per_day: int = 0
    turns_at_once: int = 0
    feedback_per_minute: int = 0
    readers_at_once: int = 0
    calls_per_minute: int = 0
    erasures_per_hour: int = 0

    def maximum(self, limit: Limit) -> int:
        """Return the value of a limit."""
        return {
            Limit.REQUESTS: self.requests_per_minute,
            Limit.TOKENS: self.tokens_per_day,
            Limit.TURNS: self.turns_at_once,
            Limit.FEEDBACK: self.feedback_per_minute,
            Limit.READERS: self.readers_at_once,
            Limit.CALLS: self.calls_per_minute,
            Limit.ERASURES: self.erasures_per_hour,
        }[limit]

    def times(self, number: int) -> "Allowance":
        """Return the limits of a number of holders together."""
        return Allowance(*(number * limit for limit in astuple(self)))


def accounts(caller: Caller) -> Mapping[Holder, str]:
    """Return the names of the accounts on which a caller's use counts, in the order of Holder."""
    shared = {Holder.KEY: caller.holder.key} if caller.key_user else {}
    return {Holder.USER: caller.key, **shared, Holder.TENANT: caller.tenant}


@dataclass(frozen=True)
class QuotaRequest:
    """Request for the amounts in `needs`: of a turn, or one feedback event, call or erasure.

    A turn needs one request, one concurrent turn and the tokens to reserve, until it is settled.
    `allowances` has the holders of the caller's accounts.
    """

    id: str
    caller: Caller
    needs: Mapping[Limit, int]
    allowances: Mapping[Holder, Allowance]

    @property
    def is_limited(self) -> bool:
        """True if any limit applies."""
        return any(self.maximum(holder, limit) for holder in self.holders for limit in self.needs)

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Holders of the caller's accounts."""
        return tuple(accounts(self.caller))

    @property
    def tokens(self) -> int:
        """Tokens reserved by the turn."""
        return self.needs.get(Limit.TOKENS, 0)

    def maximum(self, holder: Holder, limit: Limit) -> int:
        """Return the value of a limit. 0 means unlimited."""
        return self.allowances[holder].maximum(limit)


@dataclass(frozen=True)
class WindowUsage:
    """Amount used in a window, and seconds until the window is empty."""

    used: int
    reset_seconds: float


@dataclass(frozen=True)
class QuotaDecision:
    """Admission, or rejection by one limit. `usage` has an entry for each limited window."""

    refused: tuple[Holder, Limit] | None = None
    retry_seconds: float = 0.0
    usage: Mapping[tuple[Holder, Limit], WindowUsage] = field(default_factory=dict)


# Users and tenants that the local store counts.
MAX_ACCOUNTS = 20_000
# The end of a running turn is unpredictable, so clients retry at a fixed interval.
TURN_RETRY_SECONDS = 1.0


def check_order(request: QuotaRequest) -> tuple[tuple[Holder, Limit], ...]:
    """Return the order of the checks. The first exceeded limit rejects."""
    limits = (
        Limit.REQUESTS,
        Limit.FEEDBACK,
        Limit.TURNS,
        Limit.TOKENS,
        Limit.ERASURES,
        Limit.CALLS,
    )
    return tuple((holder, limit) for limit in limits for holder in request.holders)


@dataclass
class _Counts:
    """Counts per step of a window."""

    window: Window
    steps: dict[int, int] = field(default_factory=dict)

    def clean(self, now_ms: int) -> None:
        first = self.window.first_step(now_ms)
        for step in [step for step in self.steps if step < first]:
            del self.steps[step]

    def used(self) -> int:
        return sum(self.steps.values())

    def add(self, count: int, now_ms: int) -> int:
        """Add to the current step. Returns the step."""
        step = now_ms // self.window.step_ms
        self.steps[step] = self.steps.get(step, 0) + count
        return step

    def change(self, step: int, count: int) -> None:
        """Correct an earlier count if its step is still in the window."""
        if step in self.steps:
            self.steps[step] = max(0, self.steps[step] + count)

    def frees_in_ms(self, excess: int, now_ms: int) -> int:
        """Return the milliseconds until `excess` has left the window."""
        for step in sorted(self.steps):
            excess -= self.steps[step]
            if excess <= 0:
                return self.window.leaves_in_ms(step, now_ms)
        return self.window.span_ms

    def usage(self, now_ms: int) -> WindowUsage:
        full = [step for step, count in self.steps.items() if count]
        return WindowUsage(
            self.used(), max(0, self.window.leaves_in_ms(max(full), now_ms)) / 1000 if full else 0.0
        )


@dataclass
class _Account:
    """Counts of a user or tenant. `held` maps a turn to step and number of reserved tokens."""

    counts: Mapping[Limit, _Counts]
    held: dict[str, tuple[int, int]] = field(default_factory=dict)

    def used(self, limit: Limit) -> int:
        return len(self.held) if limit is Limit.TURNS else self.counts[limit].used()


class LocalQuotaStore:
    """Implements quotas in memory, with least recently used eviction of accounts.

    Reservations need no lease, because they end with the process.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        windows: Mapping[Limit, Window] = WINDOWS,
    ) -> None:
        self._monotonic, self._windows = monotonic, windows
        # Bounds the memory. An evicted account restarts with an empty quota.
        self._accounts: LRUCache[tuple[Holder, str], _Account] = LRUCache(MAX_ACCOUNTS)

    def admit(self, request: QuotaRequest) -> QuotaDecision:
        """Decide on a request, and record the request if admitted."""
        now_ms = self._clean(request)
        for holder, limit in check_order(request):
            maximum, account = request.maximum(holder, limit), self._account(holder, request)
            if limit not in request.needs or not maximum:
                continue
            excess = account.used(limit) + request.needs[limit] - maximum
            if excess > 0:
                counts = account.counts.get(limit)
                # The window frees capacity step by step. Turns have no window.
                retry = counts.frees_in_ms(excess, now_ms) / 1000 if counts else TURN_RETRY_SECONDS
                return QuotaDecision((holder, limit), retry, self._usage(request, now_ms))
        self.record(request)
        return QuotaDecision(usage=self._usage(request, now_ms))

    def record(self, request: QuotaRequest) -> None:
        """Record an admitted request, including those admitted by the shared store."""
        now_ms = self._clean(request)
        for holder in request.holders:
            account = self._account(holder, request)
            steps = {
                limit: account.counts[limit].add(amount, now_ms)
                for limit, amount in request.needs.items()
                if limit in account.counts
            }
            if Limit.TURNS in request.needs:
                account.held[request.id] = (steps[Limit.TOKENS], request.tokens)

    def settle(self, request: QuotaRequest, used_tokens: int) -> None:
        """Replace the reservation of an ended turn by its usage. Idempotent."""
        for holder in request.holders:
            account = self._account(holder, request)
            if held := account.held.pop(request.id, None):
                step, reserved = held
                account.counts[Limit.TOKENS].change(step, used_tokens - reserved)

    def _clean(self, request: QuotaRequest) -> int:
        now_ms = int(1000 * self._monotonic())
        for holder in request.holders:
            for counts in self._account(holder, request).counts.values():
                counts.clean(now_ms)
        return now_ms

    def _account(self, holder: Holder, request: QuotaRequest) -> _Account:
        key = (holder, accounts(request.caller)[holder])
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(
                {limit: _Counts(window) for limit, window in self._windows.items()}
            )
        return account

    def _usage(self, request: QuotaRequest, now_ms: int) -> dict[tuple[Holder, Limit], WindowUsage]:
        return {
            (holder, limit): self._account(holder, request).counts[limit].usage(now_ms)
            for holder in request.holders
            for limit in self._windows
            if limit in request.needs and request.maximum(holder, limit)
        }
