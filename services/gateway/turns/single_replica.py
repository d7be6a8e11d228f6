"""Shared state of a gateway without other replicas: all turns are local."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from services.chassis.identity import Caller
from services.gateway.turns.events import TurnEvent
from services.gateway.turns.turn import Claim, Turn
from services.gateway.turns.turns import turn_not_found


class SingleReplica:
    """Implements `turn.Announcer`, `turns.RemoteTurns` and `turns.TurnHistory` for one process."""

    def __init__(self) -> None:
        self._forget: Callable[[str], Awaitable[None]] | None = None

    async def claim(self, turn: Turn, *, in_doubt: bool) -> Claim:
        return Claim.OURS

    def announce(self, turn: Turn) -> None:
        pass

    async def follow(self, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        raise turn_not_found()
        yield

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[TurnEvent, None]:
        raise turn_not_found()

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        return False

    def hand_over(self) -> bool:
        return False

    def on_forget(self, forget: Callable[[str], Awaitable[None]]) -> None:
        self._forget = forget

    async def forget(self, caller_key: str) -> None:
        if self._forget:
            await self._forget(caller_key)
