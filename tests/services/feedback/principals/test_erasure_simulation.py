"""Seeded crashes, zombies and lost acknowledgements, with erasures at every step.

Events acknowledged before an erasure are neither readable rows nor current thumbs. Events sent
after an erasure are never lost. Every planted mutant is found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.lake.ledger import Batch, InTransaction, Lease, Segment
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.sealing import DataKey, key_id_of
from services.feedback.sink import SinkStep
from services.feedback.store import tables
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import KEY, thumb
from tests.services.feedback.simulation import check_sound, is_caught
from tests.services.feedback.world import ForgetfulLedger, World

# Six seeds are needed for the last mutant.
SEEDS, MUTANT_SEEDS, LONG_SEEDS = 6, 40, 200
FAULTS = {
    "erased",
    "crash before reply",
    "commit ack lost",
    *(f"erased at {step}" for step in (SinkStep.READ, SinkStep.ENCODED, SinkStep.STORED)),
}


class ErasingWorld(World):
    """Simulation with one user per conversation, erased at random."""

    def __init__(self, seed: int, directory: Path) -> None:
        # Acknowledged events; those acknowledged before an erasure; and all events sent before an
        # erasure.
        self.told, self.dead, self.before = set[str](), set[str](), set[str]()
        self._said: dict[str, events_pb2.FeedbackEvent] = {}
        super().__init__(seed, directory)
        self.erasures = Erasures(self.engine)

    def moves(self):
        return [*super().moves(), self._erase, self._send_again]

    def problems(self) -> list[str]:
        found = super().problems()
        with self.engine.begin() as connection:
            keys = {
                bytes(key_id)
                for key_id in connection.execute(select(tables.data_keys.c.key_id)).scalars()
            }
            standing = {row.message_id for row in connection.execute(select(tables.thumbs))}
        rows = [
            row
            for segment in self.ledger.segments("feedback")
            if segment.object_key
            for row in decode(self.store.get(segment.object_key))
        ]
        live = {
            str(row["event_id"]): str(row["message_id"])
            for row in rows
            if key_id_of(row["sealed"]) in keys
        }
        found += [
            f"F: {event_id} was erased and is readable" for event_id in self.dead & live.keys()
        ]
        if standing != set(live.values()):
            found.append("F: the thumbs that stand are not those of living rows")
        return found

    def _event(self, conversation: str, request: str, at: int) -> events_pb2.FeedbackEvent:
        event = thumb(
            request, message=conversation, caller=Caller("acme", conversation), at=1_000 + at
        )
        return self._said.setdefault(event.event_id, event)

    def _erase(self) -> None:
        conversation = self.faults.random.choice(sorted(self.history.sent))
        self.erasures.erase(principal_of(KEY, Caller("acme", conversation)), "acme")
        self.faults.counts["erased"] += 1
        self.before.update(self.history.sent[conversation])
        self.dead |= self.told.intersection(self.history.sent[conversation])
        self.history.acknowledged -= self.before

    def _send_again(self) -> None:
        """Resend an acknowledged event of any age."""
        if self.told:
            event = self._said[self.faults.random.choice(sorted(self.told))]
            self.acceptance.store([[codec.feedback_entry(event)]])

    def _send(self, conversations: Sequence[str]) -> None:
        super()._send(conversations)
        self.told |= self.history.acknowledged
        # Events sent before an erasure and acknowledged after may be present or not.
        self.history.acknowledged -= self.before

    def _at(self, step: SinkStep) -> None:
        if step is not SinkStep.TRIMMED and self.faults.strike(f"erased at {step}", 0.1):
            self._erase()
        super()._at(step)


@pytest.mark.parametrize("seeds", [SEEDS, pytest.param(LONG_SEEDS, marks=pytest.mark.long)])
def test_erased_events_stay_erased_and_no_other_event_is_lost(
    seeds: int, fast_directory: Path
) -> None:
    check_sound(ErasingWorld, seeds, FAULTS, fast_directory)


class HastyLedger(ForgetfulLedger):
    """Mutant: erasures after the composition of a batch are ignored."""

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        return super().commit(lease, replace(batch, owners=()), in_transaction)


class HastyWorld(ErasingWorld):
    ledger_kind = HastyLedger


class CachingKeys(DataKeys):
    """Mutant: keys are cached between groups."""

    def get_or_create(self, tenants: Mapping[str, str]) -> dict[str, DataKey]:
        self.cache: dict[str, DataKey] = getattr(self, "cache", {})
        self.cache |= super().get_or_create(
            {name: tenant for name, tenant in tenants.items() if name not in self.cache}
        )
        return {name: self.cache[name] for name in tenants}


class CachingWorld(ErasingWorld):
    keys_kind = CachingKeys


class ForgetfulErasedLedger(ForgetfulLedger):
    """Mutant: only ids of rows are stored, so a resent erased event returns."""

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        kept = dict(list(batch.fingerprints.items())[: batch.rows])
        return super().commit(lease, replace(batch, fingerprints=kept), in_transaction)


class ForgetfulErasedWorld(ErasingWorld):
    ledger_kind = ForgetfulErasedLedger


@pytest.mark.parametrize(
    ("kind", "caught"), [(HastyWorld, "F"), (CachingWorld, "A"), (ForgetfulErasedWorld, "F")]
)
def test_a_planted_mutant_is_caught(
    kind: type[ErasingWorld], caught: str, fast_directory: Path
) -> None:
    assert is_caught(kind, caught, MUTANT_SEEDS, fast_directory)
