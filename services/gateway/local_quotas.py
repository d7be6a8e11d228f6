"""The quota book of one process: all of it in the embedded install, else what holds while the
shared one is away.

Its reservations need no lease: they end with the process.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.gateway.quota import (
    CHECKS,
    TURN_RETRY_SECONDS,
    WINDOWS,
    Ask,
    Fill,
    Holder,
    Limit,
    Verdict,
    Window,
)

MAX_ACCOUNTS = 20_000


@dataclass
class _Counts:
    """What fell into each step of a window."""

    window: Window
    steps: dict[int, int] = field(default_factory=dict)

    def clean(self, now_ms: int) -> None:
        first = self.window.first_step(now_ms)
        for step in [step for step in self.steps if step < first]:
            del self.steps[step]

    def used(self) -> int:
        return sum(self.steps.values())

    def add(self, count: int, now_ms: int) -> int:
        """The step that it fell into."""
        step = now_ms // self.window.step_ms
        self.steps[step] = self.steps.get(step, 0) + count
        return step

    def change(self, step: int, count: int) -> None:
        """Correct an earlier count, if it has not left the window."""
        if step in self.steps:
            self.steps[step] = max(0, self.steps[step] + count)

    def frees_in_ms(self, excess: int, now_ms: int) -> int:
        """Until so much has left the window."""
        for step in sorted(self.steps):
            excess -= self.steps[step]
            if excess <= 0:
                return self.window.leaves_in_ms(step, now_ms)
        return self.window.span_ms

    def fill(self, now_ms: int) -> Fill:
        full = [step for step, count in self.steps.items() if count]
        return Fill(
            self.used(), max(0, self.window.leaves_in_ms(max(full), now_ms)) / 1000 if full else 0.0
        )


@dataclass
class _Account:
    """One user or one tenant. `held`: by turn, the step and number of its reserved tokens."""

    counts: Mapping[Limit, _Counts]
    held: dict[str, tuple[int, int]] = field(default_factory=dict)

    def used(self, limit: Limit) -> int:
        return len(self.held) if limit is Limit.TURNS else self.counts[limit].used()


class LocalBook:
    """Admits, records and settles."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        windows: Mapping[Limit, Window] = WINDOWS,
    ) -> None:
        self._monotonic, self._windows = monotonic, windows
        self._accounts: OrderedDict[tuple[Holder, str], _Account] = OrderedDict()

    def admit(self, ask: Ask) -> Verdict:
        """Decide, and write down what is admitted."""
        now_ms = self._clean(ask)
        for holder, limit in CHECKS:
            most, account = ask.most(holder, limit), self._account(holder, ask)
            excess = account.used(limit) + ask.needs(limit) - most
            if most and excess > 0:
                counts = account.counts.get(limit)
                retry = counts.frees_in_ms(excess, now_ms) / 1000 if counts else TURN_RETRY_SECONDS
                return Verdict((holder, limit), retry, self._fills(ask, now_ms))
        self.record(ask)
        return Verdict(fills=self._fills(ask, now_ms))

    def record(self, ask: Ask) -> None:
        """Write down what was admitted, here or elsewhere."""
        now_ms = self._clean(ask)
        for holder in Holder:
            account = self._account(holder, ask)
            account.counts[Limit.REQUESTS].add(1, now_ms)
            account.held[ask.id] = (
                account.counts[Limit.TOKENS].add(ask.tokens, now_ms),
                ask.tokens,
            )

    def settle(self, ask: Ask, used_tokens: int) -> None:
        """The turn has ended; again is harmless."""
        for holder in Holder:
            account = self._account(holder, ask)
            if held := account.held.pop(ask.id, None):
                step, reserved = held
                account.counts[Limit.TOKENS].change(step, used_tokens - reserved)

    def _clean(self, ask: Ask) -> int:
        now_ms = int(1000 * self._monotonic())
        for holder in Holder:
            for counts in self._account(holder, ask).counts.values():
                counts.clean(now_ms)
        return now_ms

    def _account(self, holder: Holder, ask: Ask) -> _Account:
        key = (holder, ask.caller.key if holder is Holder.USER else ask.caller.tenant)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(
                {limit: _Counts(window) for limit, window in self._windows.items()}
            )
        self._accounts.move_to_end(key)
        while len(self._accounts) > MAX_ACCOUNTS:
            self._accounts.popitem(last=False)
        return account

    def _fills(self, ask: Ask, now_ms: int) -> dict[tuple[Holder, Limit], Fill]:
        return {
            (holder, limit): self._account(holder, ask).counts[limit].fill(now_ms)
            for holder in Holder
            for limit in WINDOWS
            if ask.most(holder, limit)
        }
