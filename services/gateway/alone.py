"""One gateway alone: every turn is its own, and what it does not know nobody knows."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from services.chassis.identity import Caller
from services.gateway.events import TurnEvent
from services.gateway.turn import Claim, Turn
from services.gateway.turns import nothing_kept


class Alone:
    """See `turn.Announcer`, `turns.OtherGateways` and `turns.Memories`."""

    def __init__(self) -> None:
        self._forget: Callable[[str], Awaitable[None]] | None = None

    async def claim(self, turn: Turn, *, in_doubt: bool) -> Claim:
        return Claim.OURS

    def announce(self, turn: Turn) -> None:
        pass

    async def follow(self, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        raise nothing_kept()
        yield

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[TurnEvent, None]:
        raise nothing_kept()

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        return False

    def hand_over(self) -> bool:
        return False

    def when_asked(self, forget: Callable[[str], Awaitable[None]]) -> None:
        self._forget = forget

    async def forget(self, caller_key: str) -> None:
        if self._forget:
            await self._forget(caller_key)
