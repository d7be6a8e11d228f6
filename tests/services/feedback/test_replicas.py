"""Thousands of seeded histories of two replicas over one broker.

No acknowledged event is lost, duplicated or out of order, and every planted mutant is found.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from services.feedback.kafka.relay import PublishError, Relay
from services.feedback.lake.ledger import Batch, Lease, Segment
from services.feedback.sink import SinkStep
from services.feedback.spool.accept import Claim, Claims, NoClaims
from services.feedback.spool.log import Entry, LogError
from tests.services.feedback.memory import MemoryLedger, MemoryStore
from tests.services.feedback.replicas import Replicas, read

STEPS, MUTANT_SEEDS = 50, 1_500
FAULTS = {
    "spool full",
    "disk full",
    "crash before sync",
    "crash after claim",
    "crash before reply",
    "claims away",
    "claim ack lost",
    "claim released",
    "sent to both",
    "other content under a used id",
    "other content refused",
    "broker away",
    "batch partly taken",
    "producer ack lost",
    "crash after publish",
    "relayed again",
    "record twice in the log",
    "undecodable record",
    "partition moved",
    "topic made anew",
    "replaced topic noticed",
    "put failed",
    "put ack lost",
    "commit failed",
    "commit ack lost",
    "FencedError",
    *(f"crash at {step}" for step in SinkStep),
    *(f"zombie at {step}" for step in SinkStep if step is not SinkStep.TRIMMED),
}


def run(kind: type[Replicas], seed: int) -> tuple[list[str], Counter[str]]:
    world = kind(seed)
    try:
        world.run(STEPS)
    except LogError as error:
        return [f"stopped: {error}"], world.faults.counts
    return world.problems(), world.faults.counts


@pytest.mark.parametrize("seeds", [600, pytest.param(30_000, marks=pytest.mark.long)])
def test_no_acknowledged_event_is_lost_duplicated_or_out_of_order(seeds: int) -> None:
    totals: Counter[str] = Counter()
    for seed in range(seeds):
        found, counts = run(Replicas, seed)
        assert found == [], f"seed {seed}"
        totals.update(counts)
    assert {name for name in FAULTS if not totals[name]} == set(), "a fault never happened"


class StartOffsetNames(MemoryStore):
    """Mutant: objects named only by their first offset, overwritten."""

    def put(self, key: str, data: bytes) -> None:
        super().put(_short(key), data)

    def get(self, key: str) -> bytes:
        return super().get(_short(key))


def _short(key: str) -> str:
    return key.rsplit("-", 2)[0]


class StartOffsetWorld(Replicas):
    store_kind = StartOffsetNames


class StoreListing:
    """Mutant: readers list the store instead of the ledger."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def segments(self, stream: str) -> list[Segment]:
        found = []
        for number, key in enumerate((found.key for found in self._store.list("")), start=1):
            topic_id, partition = (part.split("=")[1] for part in key.split("/")[2:4])
            start, end = (int(part) for part in key.rsplit("/", 1)[1].split("-")[:2])
            rows = len(read(self._store.get(key)))
            found.append(
                Segment(
                    stream,
                    topic_id,
                    int(partition),
                    number,
                    start,
                    end,
                    key,
                    "",
                    rows,
                    0,
                    end - start - rows,
                    1,
                )
            )
        return found


class StoreListingWorld(Replicas):
    def catalogue(self) -> StoreListing:
        return StoreListing(self.store)


class LooseLedger(MemoryLedger):
    """Mutant: the ledger commits for any lease, like a store that ignores If-None-Match."""

    def advance(self, lease: Lease, batch: Batch) -> None:
        self.places[lease.topic_id, lease.partition][1] = batch.end_offset


class LooseLedgerWorld(Replicas):
    ledger_kind = LooseLedger


class HastyRelay(Relay):
    """Mutant: the relay trims records before their acknowledgement."""

    def step(self) -> bool:
        try:
            return super().step()
        except PublishError:
            self._position = min(self._position + self._max_records, self._spool.end_offset)
            self._spool.trim(self._position)
            raise


class HastyRelayWorld(Replicas):
    relay_kind = HastyRelay


class NoClaimsWorld(Replicas):
    """Mutant: each replica decides alone."""

    def claims_of(self) -> Claims:
        return NoClaims()


class ForgetfulClaims(Claims):
    """Mutant: an earlier claim counts as an acknowledgement, so the event is not stored again."""

    def __init__(self, claims: Claims) -> None:
        self._claims, self._seen = claims, set[str]()

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        found = dict(self._claims.claim(entries))
        for event_id in found.keys() & self._seen:
            found[event_id] = replace(found[event_id], committed=True)
        self._seen.update(found)
        return found

    def release(self, event_ids: Collection[str]) -> None:
        self._claims.release(event_ids)


class ClaimIsAckWorld(Replicas):
    def __init__(self, seed: int) -> None:
        self._forgetful: ForgetfulClaims | None = None
        super().__init__(seed)

    def claims_of(self) -> Claims:
        self._forgetful = self._forgetful or ForgetfulClaims(super().claims_of())
        return self._forgetful


class BlindWorld(Replicas):
    """Mutant: the topic id is not verified after a read."""

    def require(self, topic_id: str) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (StartOffsetWorld, "A"),
        (StoreListingWorld, "B"),
        (LooseLedgerWorld, "C"),
        (HastyRelayWorld, "A"),
        (NoClaimsWorld, "D"),
        (NoClaimsWorld, "E"),
        (ClaimIsAckWorld, "A"),
        (BlindWorld, "C"),
    ],
)
def test_a_planted_mutant_is_caught(kind: type[Replicas], caught: str) -> None:
    found = (run(kind, seed)[0] for seed in range(MUTANT_SEEDS))
    assert any(problem.startswith(f"{caught}:") for problems in found for problem in problems)
