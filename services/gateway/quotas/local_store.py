"""Quota store of one process: for the embedded install, and during outages of the shared store.

Reservations need no lease, because they end with the process.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cachetools import LRUCache

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

MAX_ACCOUNTS = 20_000


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
    """Implements quotas in memory, with least recently used eviction of accounts."""

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
        for holder, limit in CHECK_ORDER:
            maximum, account = request.maximum(holder, limit), self._account(holder, request)
            excess = account.used(limit) + request.needs(limit) - maximum
            if maximum and excess > 0:
                counts = account.counts.get(limit)
                # The window frees capacity step by step. Turns have no window.
                retry = counts.frees_in_ms(excess, now_ms) / 1000 if counts else TURN_RETRY_SECONDS
                return QuotaDecision((holder, limit), retry, self._usage(request, now_ms))
        self.record(request)
        return QuotaDecision(usage=self._usage(request, now_ms))

    def record(self, request: QuotaRequest) -> None:
        """Record an admitted request, including those admitted by the shared store."""
        now_ms = self._clean(request)
        for holder in Holder:
            account = self._account(holder, request)
            account.counts[Limit.REQUESTS].add(1, now_ms)
            account.held[request.id] = (
                account.counts[Limit.TOKENS].add(request.tokens, now_ms),
                request.tokens,
            )

    def settle(self, request: QuotaRequest, used_tokens: int) -> None:
        """Replace the reservation of an ended turn by its usage. Idempotent."""
        for holder in Holder:
            account = self._account(holder, request)
            if held := account.held.pop(request.id, None):
                step, reserved = held
                account.counts[Limit.TOKENS].change(step, used_tokens - reserved)

    def _clean(self, request: QuotaRequest) -> int:
        now_ms = int(1000 * self._monotonic())
        for holder in Holder:
            for counts in self._account(holder, request).counts.values():
                counts.clean(now_ms)
        return now_ms

    def _account(self, holder: Holder, request: QuotaRequest) -> _Account:
        key = (holder, request.caller.key if holder is Holder.USER else request.caller.tenant)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(
                {limit: _Counts(window) for limit, window in self._windows.items()}
            )
        return account

    def _usage(self, request: QuotaRequest, now_ms: int) -> dict[tuple[Holder, Limit], WindowUsage]:
        return {
            (holder, limit): self._account(holder, request).counts[limit].usage(now_ms)
            for holder in Holder
            for limit in WINDOWS
            if request.maximum(holder, limit)
        }
