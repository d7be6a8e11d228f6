"""Idempotent acceptance and group commit: one decision per event id, one sync for all."""

import asyncio
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.errors import AlreadyExistsError, ServiceError, UnavailableError
from services.feedback.spool.accept import Acceptance, Claim, GroupCommit, NoClaims
from services.feedback.spool.log import Entry, Record, frame_bytes
from services.feedback.spool.spool import Device, Spool
from tests.services.feedback.samples import entry
from tests.services.feedback.unsealed import Unsealed
from tests.support.errors import refused

ROOM = 1 << 20


class Committed:
    """Fake ledger with committed ids."""

    def __init__(self, known: Mapping[str, bytes] | None = None, away: bool = False) -> None:
        self.existing, self.away = dict(known or {}), away

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> dict[str, bytes]:
        if self.away:
            raise UnavailableError("away: nothing was stored")
        return {
            event_id: self.existing[event_id] for event_id in event_ids if event_id in self.existing
        }


def open_spool(directory: Path, max_bytes: int = ROOM, device: Device | None = None) -> Spool:
    return Spool(directory / "spool", max_bytes=max_bytes, segment_bytes=ROOM, device=device)


def accepting(spool: Spool, committed: Committed) -> Acceptance:
    return Acceptance("feedback", spool, committed, NoClaims(), Unsealed())


def stored_ids(spool: Spool) -> list[str]:
    return [record.entry.event_id for record in spool.read(spool.start_offset, 1_000, ROOM)]


def test_a_repeated_event_is_acknowledged_and_not_stored_again(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    acceptance = accepting(spool, Committed())
    assert acceptance.store([[entry("a")], [entry("a")]]).results == [1, 0]
    assert acceptance.store([[entry("a")]]).results == [0]
    assert stored_ids(spool) == [entry("a").event_id]
    spool.close()


def test_other_content_under_a_known_id_is_rejected(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    acceptance = accepting(spool, Committed({entry("b").event_id: entry("b").fingerprint}))
    acceptance.store([[entry("a")]])
    calls = [[entry("a", up=False)], [entry("b", up=False)], [entry("c")], [entry("c", up=False)]]
    results = acceptance.store(calls).results
    assert [isinstance(result, AlreadyExistsError) for result in results] == [
        True,
        True,
        False,
        True,
    ]
    assert [record.entry for record in spool.read(0, 9, ROOM)] == [entry("a"), entry("c")]
    spool.close()


def test_a_call_with_one_invalid_event_stores_none_of_its_events(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    acceptance = accepting(spool, Committed())
    acceptance.store([[entry("a")]])
    acceptance.store([[entry("b"), entry("a", up=False)], [entry("c")]])
    assert stored_ids(spool) == [entry("a").event_id, entry("c").event_id]
    spool.close()


def test_an_event_stays_known_while_it_moves_from_spool_to_ledger(tmp_path: Path) -> None:
    spool, committed = open_spool(tmp_path), Committed()
    acceptance = accepting(spool, committed)
    acceptance.store([[entry("a")]])
    committed.existing[entry("a").event_id] = entry("a").fingerprint
    acceptance.forget(before=1)
    assert acceptance.store([[entry("a")]]).results == [0]
    spool.close()


def test_an_event_of_an_earlier_process_is_known_after_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    accepting(spool, Committed()).store([[entry("a")]])
    spool.close()
    spool = open_spool(tmp_path)
    acceptance = accepting(spool, Committed())
    acceptance.remember(spool.read(0, 9, ROOM))
    assert acceptance.store([[entry("a")], [entry("a", up=False)]]).results[0] == 0
    assert stored_ids(spool) == [entry("a").event_id]
    spool.close()


def test_a_group_accepts_the_calls_that_fit_and_rejects_the_others(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=2 * frame_bytes(entry("a")))
    acceptance = accepting(spool, Committed())
    results = acceptance.store([[entry("a")], [entry("b"), entry("c")], [entry("d")]]).results
    assert isinstance(results[1], UnavailableError)
    assert results[1].reason == "FEEDBACK_SPOOL_FULL"
    assert stored_ids(spool) == [entry("a").event_id, entry("d").event_id]
    spool.close()


def test_a_failed_write_fails_exactly_the_calls_of_its_group(tmp_path: Path) -> None:
    failing = [False]

    def write(descriptor: int, data: memoryview, position: int) -> int:
        if failing[0]:
            raise OSError(28, "no space left on device")
        return os.pwrite(descriptor, data, position)

    spool = open_spool(tmp_path, device=Device(write=write))
    acceptance = accepting(spool, Committed())
    acceptance.store([[entry("a")]])
    failing[0] = True
    results = acceptance.store([[entry("a")], [entry("b")], [entry("b")]]).results
    assert [isinstance(result, UnavailableError) for result in results] == [False, True, True]
    failing[0] = False
    assert acceptance.store([[entry("b")]]).results == [1]
    spool.close()


class Table:
    """Fake claims shared with another replica, or reporting a concurrent commit."""

    def __init__(self, **told: Claim) -> None:
        self.told, self.claimed, self.released = told, list[str](), set[str]()
        self.fingerprints: list[bytes] = []
        self.is_away = False

    def claim(self, entries: Sequence[Entry]) -> dict[str, Claim]:
        if self.is_away:
            raise UnavailableError("away: nothing was stored")
        known = {entry(request).event_id: claim for request, claim in self.told.items()}
        self.claimed += [one.event_id for one in entries]
        self.fingerprints += [one.fingerprint for one in entries]
        return {
            one.event_id: known.get(one.event_id, Claim(one.fingerprint, 10 + number))
            for number, one in enumerate(entries)
        }

    def release(self, event_ids: Collection[str]) -> None:
        self.released.update(event_ids)

    def sweep(self, older_than_seconds: float) -> int:
        return 0


def test_new_events_are_stored_with_their_place_in_the_order_of_all_replicas(
    tmp_path: Path,
) -> None:
    spool, claims = open_spool(tmp_path), Table(b=Claim(entry("b").fingerprint, 3))
    acceptance = Acceptance("feedback", spool, Committed(), claims, Unsealed())
    assert acceptance.store([[entry("a")], [entry("b")], [entry("c")]]).results == [1, 1, 1]
    records = spool.read(0, 9, ROOM)
    assert [(record.entry.event_id, record.entry.accept_order) for record in records] == [
        (entry("a").event_id, 10),
        (entry("b").event_id, 3),
        (entry("c").event_id, 12),
    ]
    assert claims.released == set()
    spool.close()


def test_known_events_are_not_claimed_again(tmp_path: Path) -> None:
    spool, claims = open_spool(tmp_path), Table()
    committed = Committed({entry("b").event_id: entry("b").fingerprint})
    acceptance = Acceptance("feedback", spool, committed, claims, Unsealed())
    acceptance.store([[entry("a")]])
    assert acceptance.store([[entry("a")], [entry("b")]]).results == [0, 0]
    assert claims.claimed == [entry("a").event_id]
    spool.close()


def test_another_replicas_content_wins_and_other_claims_are_released(
    tmp_path: Path,
) -> None:
    spool, claims = open_spool(tmp_path), Table(b=Claim(entry("b", up=False).fingerprint, 3))
    acceptance = Acceptance("feedback", spool, Committed(), claims, Unsealed())
    results = acceptance.store([[entry("a"), entry("b")], [entry("c")], [entry("a")]]).results
    assert isinstance(results[0], AlreadyExistsError)
    # Events shared between a rejected call and another call are stored for the other call.
    assert results[1:] == [1, 1]
    assert stored_ids(spool) == [entry("c").event_id, entry("a").event_id]
    assert claims.released == {entry("b").event_id}
    spool.close()


def test_a_just_committed_event_is_acknowledged_and_not_stored(
    tmp_path: Path,
) -> None:
    spool, claims = open_spool(tmp_path), Table(a=Claim(entry("a").fingerprint, 0, True))
    assert Acceptance("feedback", spool, Committed(), claims, Unsealed()).store(
        [[entry("a")]]
    ).results == [0]
    assert spool.end_offset == 0
    spool.close()


def test_without_claims_nothing_is_stored(tmp_path: Path) -> None:
    spool, claims = open_spool(tmp_path), Table()
    claims.is_away = True
    (result,) = (
        Acceptance("feedback", spool, Committed(), claims, Unsealed()).store([[entry("a")]]).results
    )
    assert isinstance(result, UnavailableError)
    assert spool.end_offset == 0
    spool.close()


@pytest.mark.parametrize(("is_broken", "released"), [(False, {entry("a").event_id}), (True, set())])
def test_claims_of_rejected_events_are_released(
    tmp_path: Path, is_broken: bool, released: set
) -> None:
    def write(descriptor: int, data: memoryview, position: int) -> int:
        raise OSError(28, "no space left on device")

    def sync(descriptor: int) -> None:
        if is_broken:
            raise OSError(5, "input/output error")

    spool, claims = open_spool(tmp_path, device=Device(write=write, sync=sync)), Table()
    (result,) = (
        Acceptance("feedback", spool, Committed(), claims, Unsealed()).store([[entry("a")]]).results
    )
    assert isinstance(result, UnavailableError)
    assert claims.released == released
    spool.close()


def test_without_the_ledger_nothing_is_stored(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    results = accepting(spool, Committed(away=True)).store([[entry("a")]]).results
    assert isinstance(results[0], UnavailableError)
    assert spool.end_offset == 0
    spool.close()


class Tagged(Unsealed):
    """Sealer that prefixes the payload with a letter and reverses the digest."""

    max_overhead_bytes = 9

    def __init__(self, is_away: bool = False) -> None:
        self.is_away = is_away

    def fingerprint(self, digest: bytes) -> bytes:
        return hashlib.sha256(digest).digest()

    def seal(self, entries: Sequence[Entry]) -> list[Entry]:
        if self.is_away:
            raise UnavailableError("no keys")
        return [replace(one, payload=b"sealed " + one.payload) for one in entries]


def sealing(spool: Spool, committed: Committed, tagged: Tagged | None = None) -> Acceptance:
    return Acceptance("feedback", spool, committed, NoClaims(), tagged or Tagged())


def test_stored_entries_are_sealed_and_have_no_bare_digest(tmp_path: Path) -> None:
    spool, claims = open_spool(tmp_path), Table()
    acceptance = Acceptance("feedback", spool, Committed(), claims, Tagged())
    assert acceptance.store([[entry("a")], [entry("a")], [entry("a", up=False)]]).results[:2] == [
        1,
        0,
    ]
    (record,) = spool.read(0, 9, ROOM)
    assert record.entry.payload == b"sealed " + entry("a").payload
    assert record.entry.fingerprint == Tagged().fingerprint(entry("a").fingerprint)
    assert claims.fingerprints == [record.entry.fingerprint]
    assert acceptance.store([[entry("a")]]).results == [0]
    spool.close()


@pytest.mark.parametrize("is_former", [True, False])
def test_a_retry_across_the_upgrade_is_recognised(tmp_path: Path, is_former: bool) -> None:
    spool = open_spool(tmp_path)
    known = entry("a").fingerprint if is_former else Tagged().fingerprint(entry("a").fingerprint)
    acceptance = sealing(spool, Committed({entry("a").event_id: known}))
    same, other = acceptance.store([[entry("a")], [entry("a", up=False)]]).results
    assert (same, isinstance(other, AlreadyExistsError)) == (0, True)
    assert spool.end_offset == 0
    spool.close()


def test_a_claim_of_a_replica_before_the_upgrade_is_the_same_content(tmp_path: Path) -> None:
    spool, claims = open_spool(tmp_path), Table(a=Claim(entry("a").fingerprint, 3))
    acceptance = Acceptance("feedback", spool, Committed(), claims, Tagged())
    same, other = acceptance.store([[entry("a")], [entry("a", up=False)]]).results
    assert (same, isinstance(other, AlreadyExistsError)) == (1, True)
    spool.close()


def test_without_keys_nothing_is_stored_and_claims_are_released(tmp_path: Path) -> None:
    spool, claims = open_spool(tmp_path), Table()
    (result,) = (
        Acceptance("feedback", spool, Committed(), claims, Tagged(is_away=True))
        .store([[entry("a")]])
        .results
    )
    assert isinstance(result, UnavailableError)
    assert (spool.end_offset, claims.released) == (0, {entry("a").event_id})
    spool.close()


def test_space_is_reserved_for_the_overhead_of_sealing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=frame_bytes(entry("a")) + Tagged.max_overhead_bytes - 1)
    (result,) = sealing(spool, Committed()).store([[entry("a")]]).results
    assert isinstance(result, UnavailableError)
    assert spool.end_offset == 0
    spool.close()


async def test_callers_share_syncs_and_are_acknowledged_after_their_own(tmp_path: Path) -> None:
    syncs: list[int] = []

    def sync(descriptor: int) -> None:
        syncs.append(os.fstat(descriptor).st_size)
        os.fdatasync(descriptor)

    spool = open_spool(tmp_path, device=Device(sync=sync))
    seen: list[Record] = []
    commit = GroupCommit(accepting(spool, Committed()), seen.extend)

    async def call(name: str) -> None:
        await commit.append([entry(name)])
        assert entry(name).event_id in [record.entry.event_id for record in seen]

    await asyncio.gather(*(call(f"r{number}") for number in range(100)))
    await commit.close()
    assert spool.end_offset == 100
    assert [record.offset for record in seen] == list(range(100))
    assert len(syncs) < 50
    spool.close()


async def test_a_cancelled_caller_leaves_a_stored_and_visible_event(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    seen: list[Record] = []
    commit = GroupCommit(accepting(spool, Committed()), seen.extend)
    caller = asyncio.ensure_future(commit.append([entry("a")]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await commit.append([entry("b")]) == 1
    await commit.close()
    assert [record.entry for record in seen] == [entry("a"), entry("b")]
    spool.close()


async def test_closing_stores_waiting_calls(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    commit = GroupCommit(accepting(spool, Committed()), lambda records: None)
    waiting = [asyncio.ensure_future(commit.append([entry(f"r{number}")])) for number in range(20)]
    await asyncio.sleep(0)
    await commit.close()
    assert await asyncio.gather(*waiting) == [1] * 20
    spool.close()


async def test_an_unexpected_error_reaches_its_callers_and_the_thread_continues(
    tmp_path: Path,
) -> None:
    spool = open_spool(tmp_path)

    class Broken(Committed):
        failures = 1

        def fingerprints(self, stream: str, event_ids: Sequence[str]) -> dict[str, bytes]:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("a defect")
            return {}

    commit = GroupCommit(accepting(spool, Broken()), lambda records: None)
    with refused(ServiceError, reason="INTERNAL") as caught:
        await commit.append([entry("a")])
    assert "defect" not in caught.value.text
    assert await commit.append([entry("a")]) == 1
    await commit.close()
    spool.close()
