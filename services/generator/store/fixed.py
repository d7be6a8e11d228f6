"""The rollout of a generator whose only version is an external model of the settings.

The stored rollout of own versions stays as it is, for a return to another mode. Counts of
generations and the audit log are those of the store.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from services.chassis.audit.acts import Act
from services.chassis.errors import FailedPreconditionError
from services.generator.rollout.current_rollout import RolloutStore, StoredRollout
from services.generator.rollout.rollout import Deployment, Rollout
from services.generator.rollout.traffic import CountKey, TrafficStore


class Store(RolloutStore, TrafficStore, Protocol):
    """Store of the rollout and of the counts of generations."""


class ExternalServingError(FailedPreconditionError):
    """The settings choose the model, so that there is no rollout that could change."""

    reason = "EXTERNAL_SERVING"

    def __init__(self) -> None:
        super().__init__(
            "an external model answers (serving external): it has no versions to train, "
            "to try on users, to promote or to roll back; change it in the settings",
            field="serving",
            limit="predictor or kserve",
        )


class FixedStore:
    """A rollout with one stable version; implements `Store` over the store of the settings.

    Args:
        store: keeps counts and audit log.
        stable: name of the external model as a version.
    """

    def __init__(self, store: Store, stable: str) -> None:
        self._store = store
        self._fixed = StoredRollout(Rollout(stable=Deployment(stable, "")), 1)

    async def load(self) -> StoredRollout:
        return self._fixed

    async def replace(self, rollout: Rollout, serial: int, act: Act | None = None) -> bool:
        """Refuse the change.

        Raises:
            ExternalServingError: always.
        """
        raise ExternalServingError

    async def append(self, act: Act) -> None:
        await self._store.append(act)

    async def audit_records(self, since_us: int) -> Sequence[Mapping[str, Any]]:
        return await self._store.audit_records(since_us)

    async def add_traffic(self, counts: Mapping[CountKey, int]) -> None:
        await self._store.add_traffic(counts)

    async def read_traffic(self, versions: Sequence[str], since_us: int) -> Mapping[CountKey, int]:
        return await self._store.read_traffic(versions, since_us)

    async def forget_traffic(self, except_since_us: int) -> None:
        await self._store.forget_traffic(except_since_us)
