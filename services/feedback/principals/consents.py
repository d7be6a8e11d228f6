"""Consent to training per principal, otherwise the operator's default.

A consent outlives an erasure.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlalchemy import Engine, select, text

from services.feedback.store import tables
from services.feedback.store.database import chunks, transaction

_UPSERT = text("""
    INSERT INTO consents (principal, training, update_us)
    VALUES (:principal, :training, :update_us)
    ON CONFLICT (principal) DO UPDATE
    SET training = excluded.training, update_us = excluded.update_us
""")


@dataclass(frozen=True)
class Consent:
    """Consent of a principal; `update_us` is None for the operator's default."""

    training: bool
    update_us: int | None = None


class Consents:
    """Consents in the database.

    All methods are thread-safe, block, and raise LedgerUnavailableError.
    """

    def __init__(
        self,
        engine: Engine,
        training_default: bool,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._engine, self._default, self._now_us = engine, Consent(training_default), now_us

    def get(self, principals: Collection[str]) -> dict[str, Consent]:
        """Return the consent of each principal."""
        table, found = tables.consents.c, dict.fromkeys(principals, self._default)
        with transaction(self._engine) as connection:
            for chunk in chunks(principals):
                for row in connection.execute(
                    select(tables.consents).where(table.principal.in_(chunk))
                ):
                    found[row.principal] = Consent(bool(row.training), row.update_us)
        return found

    def allowed(self, principals: Collection[str]) -> set[str]:
        """Return the principals that allow training."""
        found = self.get(principals)
        return {principal for principal, consent in found.items() if consent.training}

    def set(self, principal: str, training: bool) -> Consent:
        """Store the consent of a principal and return the stored value."""
        consent = Consent(training, self._now_us())
        with transaction(self._engine) as connection:
            connection.execute(_UPSERT, {"principal": principal, **vars(consent)})
        return consent
