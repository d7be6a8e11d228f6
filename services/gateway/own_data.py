"""What users decide about their own data: whether models may be trained on it, and that it goes.

An erasure is done in an order that lets a repetition finish what a failure left: first nothing new
is written, then the conversations go, then the key to everything else that was said, and at last
what gateways remember.
"""

import logging
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.identity import Caller
from services.chassis.telemetry import fields
from services.gateway.metrics import ERASURES
from services.gateway.request import check_uuid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Consent:
    """What a user allows. `update_us` is microseconds since 1970, UTC; None: the operator's default
    stands.
    """

    training: bool
    update_us: int | None


@dataclass(frozen=True)
class Erasure:
    """How far an erasure is, in microseconds since 1970, UTC. `rewrite_us` None: objects with
    unreadable rows of the user are left.
    """

    erasure_id: str
    request_us: int
    shred_us: int
    rewrite_us: int | None


class OwnTurns(Protocol):
    """The turns of a user, named by `Caller.key`."""

    async def stop(self, caller_key: str) -> None:
        """End those that run in this gateway, and forget them. Raises: UnavailableError: some still
        run.
        """

    async def forget(self, caller_key: str) -> None:
        """The same in all gateways, and in what they share. Raises: UnavailableError: some may
        remember.
        """


class OwnConversations(Protocol):
    """The stored conversations of the running call's caller. Raises ServiceError."""

    async def erase_user(self) -> int:
        """Remove all; how many there were."""


class OwnLog(Protocol):
    """What the feedback service keeps of the running call's caller. Raises ServiceError."""

    async def consent(self) -> Consent:
        """What stands."""

    async def set_consent(self, *, training: bool) -> Consent:
        """What stands now."""

    async def erase_principal(self) -> Erasure:
        """Make everything unreadable that was said before. Where that was done, the same erasure."""

    async def erasure(self, erasure_id: str) -> Erasure:
        """One of the caller. Raises: NotFoundError."""


class TenantAnswers(Protocol):
    """Answers that are shown again within a tenant."""

    async def drop(self, tenant: str) -> None:
        """Forget them. Raises: StoreAwayError: they may still be there."""


class OwnData:
    """Consent and erasure."""

    def __init__(
        self,
        turns: OwnTurns,
        conversations: OwnConversations,
        own_log: OwnLog,
        answers: TenantAnswers,
    ) -> None:
        self._turns, self._conversations, self._log, self._answers = (
            turns,
            conversations,
            own_log,
            answers,
        )

    async def consent(self) -> Consent:
        """What the caller allows. Raises: UnavailableError."""
        return await self._log.consent()

    async def set_consent(self, *, training: bool) -> Consent:
        """Allow or forbid, from the next training on. Raises: UnavailableError: send it again."""
        return await self._log.set_consent(training=training)

    async def erase(self, caller: Caller) -> tuple[Erasure, int]:
        """Erase what the caller said; the erasure, and how many conversations this call removed.

        Raises:
            UnavailableError: not all of it is done, whatever the cause; a repetition does the rest.
        """
        try:
            await self._turns.stop(caller.key)
            removed = await self._conversations.erase_user()
            erasure = await self._log.erase_principal()
            await self._turns.forget(caller.key)
            await self._answers.drop(caller.tenant)
        except ServiceError as error:
            ERASURES.labels("unfinished").inc()
            log.warning("erasure unfinished", extra=fields(reason=error.reason))
            raise UnavailableError(
                "not all of your data is erased yet: send it again",
                reason="ERASURE_UNFINISHED",
                retry_seconds=1,
            ) from error
        ERASURES.labels("done").inc()
        return erasure, removed

    async def erasure(self, erasure_id: str) -> Erasure:
        """How far an erasure of the caller is.

        Raises:
            InvalidArgumentError: not a UUID.
            NotFoundError: unknown, or another user's.
            UnavailableError: the feedback service is away.
        """
        check_uuid(erasure_id, "erasure_id")
        return await self._log.erasure(erasure_id)
