"""Erasure of all data of a user.

The order of an erasure makes repetition after a failure safe: stop new writes, remove the
conversations, destroy the key of the feedback, then clear the memory of all gateways.
"""

import logging
from typing import Protocol

from thumbwheel.feedback.v1 import feedback_pb2

from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.identity import Caller
from services.chassis.telemetry import fields
from services.gateway.metrics import ERASURES
from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import Quotas

log = logging.getLogger(__name__)


class OwnTurns(Protocol):
    """Turns of a user, named by `Caller.key`."""

    async def stop(self, caller_key: str) -> None:
        """End the turns of a user in this gateway and remove their events.

        Raises:
            UnavailableError: A turn is still running.
        """

    async def forget(self, caller_key: str) -> None:
        """Remove the turns of a user from all gateways and from the shared store.

        Raises:
            UnavailableError: A gateway may still have turns of the user.
        """


class OwnConversations(Protocol):
    """Stored conversations of the current caller. All methods raise ServiceError."""

    async def erase_user(self) -> int:
        """Remove all conversations. Returns their number."""


class OwnLog(Protocol):
    """Feedback data of the current caller. All methods raise ServiceError."""

    async def erase_principal(self) -> feedback_pb2.Erasure:
        """Make all earlier feedback unreadable. A repeated call returns the same erasure."""


class TenantAnswers(Protocol):
    """Cached answers of a tenant."""

    async def drop_tenant(self, tenant: str) -> None:
        """Remove the cached answers of a tenant.

        Raises:
            StoreUnavailableError: The answers may still exist.
        """


class OwnData:
    """Data of users in all services and in this gateway."""

    def __init__(
        self,
        turns: OwnTurns,
        conversations: OwnConversations,
        own_log: OwnLog,
        answers: TenantAnswers,
        quotas: Quotas,
    ) -> None:
        self._quotas = quotas
        self._turns, self._conversations, self._log, self._answer_cache = (
            turns,
            conversations,
            own_log,
            answers,
        )

    async def erase(self, caller: Caller) -> tuple[feedback_pb2.Erasure, int]:
        """Erase all data of the caller.

        Returns:
            The erasure, and the number of removed conversations.

        Raises:
            UnavailableError: The erasure is incomplete. Repeating the call completes the erasure.
            QuotaError: The user or the tenant erased too often; each time the tenant loses its
                cached answers.
        """
        await self._quotas.count(caller, Limit.ERASURES)
        try:
            # Stopped first, because a running turn would write after the removal.
            await self._turns.stop(caller.key)
            removed = await self._conversations.erase_user()
            erasure = await self._log.erase_principal()
            # After the key is destroyed, only memory and caches remain.
            await self._turns.forget(caller.key)
            await self._answer_cache.drop_tenant(caller.tenant)
        except ServiceError as error:
            ERASURES.labels("unfinished").inc()
            log.warning("erasure unfinished", extra=fields(reason=error.reason))
            raise UnavailableError(
                "the erasure is incomplete: repeat the request",
                reason="ERASURE_UNFINISHED",
                retry_seconds=1,
            ) from error
        ERASURES.labels("done").inc()
        return erasure, removed
