"""The words of a quota: what is limited, what is asked, what was decided. Both books, local and
shared, speak them.

A window slides in steps: a count leaves it when the step that it fell into has wholly left. So
never more than the limit is admitted within any minute or day, and at most a step later than need
be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.chassis.identity import Caller


class Holder(StrEnum):
    """Whose quota."""

    USER = "user"
    TENANT = "tenant"


class Limit(StrEnum):
    """What is limited."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    TURNS = "turns"


@dataclass(frozen=True)
class Window:
    """A span of time that slides in steps."""

    span_ms: int
    step_ms: int

    def first_step(self, now_ms: int) -> int:
        """The oldest step that is not wholly out of the window."""
        return (now_ms - self.span_ms) // self.step_ms

    def leaves_in_ms(self, step: int, now_ms: int) -> int:
        """Until a step has wholly left."""
        return (step + 1) * self.step_ms + self.span_ms - now_ms


WINDOWS: Mapping[Limit, Window] = {
    Limit.REQUESTS: Window(60_000, 2_000),
    Limit.TOKENS: Window(86_400_000, 1_800_000),
}


@dataclass(frozen=True)
class Allowance:
    """What one user or one tenant may; 0: as much as they like."""

    requests_per_minute: int = 0
    tokens_per_day: int = 0
    turns_at_once: int = 0

    def most(self, limit: Limit) -> int:
        """The number of a limit."""
        return {
            Limit.REQUESTS: self.requests_per_minute,
            Limit.TOKENS: self.tokens_per_day,
            Limit.TURNS: self.turns_at_once,
        }[limit]


@dataclass(frozen=True)
class Ask:
    """One turn that wants to begin: one request, one turn, and `tokens` reserved."""

    id: str
    caller: Caller
    tokens: int
    allowances: Mapping[Holder, Allowance]

    @property
    def is_limited(self) -> bool:
        """Whether any limit holds."""
        return any(self.most(holder, limit) for holder in Holder for limit in Limit)

    def most(self, holder: Holder, limit: Limit) -> int:
        """The number of a limit; 0: none."""
        return self.allowances[holder].most(limit)

    def needs(self, limit: Limit) -> int:
        """How much of a limit this takes."""
        return self.tokens if limit is Limit.TOKENS else 1


@dataclass(frozen=True)
class Fill:
    """What is taken of a window, and how long until all of it is free again."""

    used: int
    reset_seconds: float


@dataclass(frozen=True)
class Verdict:
    """Admitted, or refused by one limit. `fills` has a row for each window that is limited."""

    refused: tuple[Holder, Limit] | None = None
    retry_seconds: float = 0.0
    fills: Mapping[tuple[Holder, Limit], Fill] = field(default_factory=dict)


# Nobody knows when a turn ends.
TURN_RETRY_SECONDS = 1.0
# In this order limits are looked at; the first that is reached refuses.
CHECKS = tuple(
    (holder, limit) for limit in (Limit.REQUESTS, Limit.TURNS, Limit.TOKENS) for holder in Holder
)
