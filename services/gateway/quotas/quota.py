"""Types of quotas, common to the local and the shared quota store.

A window slides in steps. A count leaves the window after its whole step has left. No minute or day
ever contains more than the limit, and capacity returns at most one step late.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.chassis.identity import Caller


class Holder(StrEnum):
    """Owner of a quota."""

    USER = "user"
    TENANT = "tenant"


class Limit(StrEnum):
    """A resource limited by quotas."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    TURNS = "turns"


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
}


@dataclass(frozen=True)
class Allowance:
    """Limits of one user or tenant. 0 means unlimited."""

    requests_per_minute: int = 0
    tokens_per_day: int = 0
    turns_at_once: int = 0

    def maximum(self, limit: Limit) -> int:
        """Return the value of a limit."""
        return {
            Limit.REQUESTS: self.requests_per_minute,
            Limit.TOKENS: self.tokens_per_day,
            Limit.TURNS: self.turns_at_once,
        }[limit]


@dataclass(frozen=True)
class QuotaRequest:
    """Quota request of one new turn: one request, one concurrent turn, and `tokens` to reserve."""

    id: str
    caller: Caller
    tokens: int
    allowances: Mapping[Holder, Allowance]

    @property
    def is_limited(self) -> bool:
        """True if any limit applies."""
        return any(self.maximum(holder, limit) for holder in Holder for limit in Limit)

    def maximum(self, holder: Holder, limit: Limit) -> int:
        """Return the value of a limit. 0 means unlimited."""
        return self.allowances[holder].maximum(limit)

    def needs(self, limit: Limit) -> int:
        """Return the amount taken from a limit."""
        return self.tokens if limit is Limit.TOKENS else 1


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


# The end of a running turn is unpredictable, so clients retry at a fixed interval.
TURN_RETRY_SECONDS = 1.0
# Order of the checks. The first exceeded limit rejects.
CHECK_ORDER = tuple(
    (holder, limit) for limit in (Limit.REQUESTS, Limit.TURNS, Limit.TOKENS) for holder in Holder
)
