"""Rotation of the master key: no data key changes or is lost, while replicas and erasures run."""

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from services.chassis.errors import UnavailableError
from services.feedback.commands import add_commands, run_command
from services.feedback.principals.data_keys import (
    FINGERPRINTS,
    DataKeys,
    FingerprintKeyMissingError,
)
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.rotation import rotate
from services.feedback.principals.sealing import DataKey, MasterKey
from services.feedback.settings import FeedbackSettings
from services.feedback.store import tables
from services.feedback.store.database import connect, open_database
from tests.services.feedback.clients import running
from tests.services.feedback.samples import KEY, MASTER, thumb
from tests.support.errors import refused

NEW = "7c" * 32
PRINCIPALS = {f"{number:064x}": "acme" for number in range(45)}
BOTH = MasterKey(NEW, accepted=(MASTER,))


class Killed(Exception):
    """Simulated end of the command after a page."""


def keys_on(engine: Engine, master: MasterKey) -> DataKeys:
    return DataKeys(engine, master)


def ignore(read: int, total: int) -> None:
    """Discard the progress of a rotation."""


def test_rotation_resumes_after_a_kill_and_changes_no_data_key(engine: Engine) -> None:
    before = keys_on(engine, MasterKey(MASTER)).get_or_create(PRINCIPALS)
    pages: list[tuple[int, int]] = []

    def kill(read: int, total: int) -> None:
        pages.append((read, total))
        if len(pages) == 2:
            raise Killed

    with pytest.raises(Killed):
        rotate(engine, BOTH, kill, page=10)
    assert pages == [(10, 45), (20, 45)]
    assert keys_on(engine, BOTH).existing(PRINCIPALS) == before
    done = rotate(engine, BOTH, ignore, page=10)
    assert (done.keys, done.rewrapped, done.remaining) == (45, 25, 0)
    assert keys_on(engine, MasterKey(NEW)).existing(PRINCIPALS) == before


def test_key_erased_between_reading_and_writing_stays_erased(engine: Engine) -> None:
    keys_on(engine, MasterKey(MASTER)).get_or_create(PRINCIPALS)
    first = min(PRINCIPALS)

    def random_bytes(count: int) -> bytes:
        # Called while a page is wrapped, after its rows were read.
        Erasures(engine).erase(first, "acme")
        return b"n" * count

    done = rotate(engine, MasterKey(NEW, random_bytes, (MASTER,)), ignore)
    assert (done.keys, done.rewrapped, done.remaining) == (44, 44, 0)
    assert keys_on(engine, BOTH).existing([first]) == {}


def test_key_created_after_an_erasure_meanwhile_is_not_overwritten(engine: Engine) -> None:
    keys_on(engine, MasterKey(MASTER)).get_or_create(PRINCIPALS)
    first = min(PRINCIPALS)
    created: dict[str, DataKey] = {}

    def random_bytes(count: int) -> bytes:
        # Called while a page is wrapped, after its rows were read.
        if not created:
            Erasures(engine).erase(first, "acme")
            created.update(keys_on(engine, BOTH).get_or_create({first: "acme"}))
        return b"n" * count

    done = rotate(engine, MasterKey(NEW, random_bytes, (MASTER,)), ignore)
    assert (done.keys, done.rewrapped, done.remaining) == (45, 44, 0)
    assert keys_on(engine, MasterKey(NEW)).existing([first]) == created


def test_key_that_opens_under_no_master_key_is_counted_and_kept(engine: Engine) -> None:
    keys_on(engine, MasterKey(MASTER)).get_or_create(PRINCIPALS)
    with engine.begin() as connection:
        table = tables.data_keys
        broken = table.c.principal == min(PRINCIPALS)
        connection.execute(update(table).where(broken).values(tenant="other"))
    done = rotate(engine, BOTH, ignore, page=10)
    assert (done.keys, done.rewrapped, done.remaining, done.broken) == (45, 44, 1, 1)


def test_no_call_fails_while_replicas_of_both_steps_run(postgres_url: str) -> None:
    """Replicas with the previous and with the new key create, read and erase during a rotation."""
    engines = [connect(postgres_url) for _ in range(4)]
    known = keys_on(engines[0], MasterKey(MASTER)).get_or_create(PRINCIPALS)
    stop = threading.Event()

    def serve(number: int, master: MasterKey) -> int:
        keys, calls = keys_on(engines[number], master), 0
        while not stop.is_set() or not calls:
            assert keys.existing(PRINCIPALS) == known
            created: dict[str, DataKey] = keys.get_or_create(
                {f"e{number:031x}{calls:032x}": "acme"}
            )
            Erasures(engines[number]).erase(next(iter(created)), "acme")
            keys.get_or_create({f"f{number:031x}{calls:032x}": "acme"})
            calls += 1
        return calls

    with ThreadPoolExecutor(3) as pool:
        previous = pool.submit(serve, 0, MasterKey(MASTER, accepted=(NEW,)))
        others = [pool.submit(serve, number, BOTH) for number in (1, 2)]
        try:
            rotated = [rotate(engines[3], BOTH, ignore, page=7) for _ in range(5)]
        finally:
            stop.set()
        assert previous.result() > 0
        assert all(other.result() > 0 for other in others)
    assert rotated[0].rewrapped >= len(PRINCIPALS)
    # The replica with the previous key is stopped now, so that nothing is left afterwards.
    assert rotate(engines[3], BOTH, ignore).remaining == 0
    assert keys_on(engines[3], MasterKey(NEW)).existing(PRINCIPALS) == known
    for engine in engines:
        engine.dispose()


# Master keys of a replica after each change of the secret (docs/kubernetes.md, Rotate a secret).
STEPS = (
    MasterKey(MASTER),
    MasterKey(MASTER, accepted=(NEW,)),
    MasterKey(NEW, accepted=(MASTER,)),
    MasterKey(NEW),
)


def test_no_call_fails_while_replicas_are_replaced_step_by_step(postgres_url: str) -> None:
    """Three replicas create and read keys; every replica opens the keys of the others."""
    engines = [connect(postgres_url) for _ in range(4)]
    known = keys_on(engines[0], MasterKey(MASTER)).get_or_create(PRINCIPALS)
    current, calls = [STEPS[0]] * 3, [0] * 3
    stop = threading.Event()

    def serve(number: int) -> None:
        while not stop.is_set():
            created = keys_on(engines[number], current[number]).get_or_create(
                {f"{number:032x}{calls[number]:032x}": "acme"}
            )
            for master in current:
                found = keys_on(engines[number], master).existing({*PRINCIPALS, *created})
                assert found == known | created
            calls[number] += 1

    with ThreadPoolExecutor(3) as pool:
        serving = [pool.submit(serve, number) for number in range(3)]

        def one_more_call() -> None:
            before = list(calls)
            while not all(now > then for now, then in zip(calls, before, strict=True)):
                for failed in (each for each in serving if each.done()):
                    failed.result()
                stop.wait(0.01)

        try:
            for step in STEPS[1:]:
                if step is STEPS[-1]:
                    done = rotate(engines[3], STEPS[2], ignore, page=7)
                    assert done.rewrapped >= len(PRINCIPALS)
                    assert done.remaining == 0
                for number in range(3):
                    current[number] = step
                    one_more_call()
        finally:
            stop.set()
        for each in serving:
            each.result()
    assert rotate(engines[3], STEPS[-1], ignore).remaining == 0, "the previous key is not needed"
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 3)])
def test_step_that_is_left_out_makes_keys_unreadable(
    engine: Engine, before: int, after: int
) -> None:
    """Both replicas run at the same time while they are replaced."""
    writer, reader = (STEPS[after], STEPS[before]) if before == 0 else (STEPS[before], STEPS[after])
    created = keys_on(engine, writer).get_or_create({"a" * 64: "acme"})
    with refused(UnavailableError, reason="FEEDBACK_MASTER_KEY"):
        keys_on(engine, reader).existing(created)


async def test_event_sent_again_is_recognised_before_during_and_after_a_rotation(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as client:
        await client.record(thumb("first"))
    async with running(tmp_path, accepted_master_keys=NEW) as client:
        await client.record(thumb("first"))
    async with running(tmp_path, master_key=NEW, accepted_master_keys=f"{MASTER},{NEW}") as client:
        await client.record(thumb("first"))
        engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
        assert rotate(engine, BOTH, ignore).remaining == 0
        await client.record(thumb("first"))
        engine.dispose()
    async with running(tmp_path, master_key=NEW) as client:
        await client.record(thumb("first"))
        await client.record(thumb("second"))


def test_key_of_fingerprints_is_stored_once(engine: Engine) -> None:
    first = keys_on(engine, MasterKey(MASTER)).fingerprint_key()
    assert first == MasterKey(MASTER).fingerprint_key
    assert keys_on(engine, BOTH).fingerprint_key() == first
    rotate(engine, BOTH, ignore)
    assert keys_on(engine, MasterKey(NEW)).fingerprint_key() == first
    assert set(keys_on(engine, BOTH).existing([FINGERPRINTS])) == {FINGERPRINTS}


def test_rotation_that_would_change_the_fingerprints_is_refused(engine: Engine) -> None:
    keys_on(engine, MasterKey(MASTER)).get_or_create(PRINCIPALS)
    missing = partial(
        refused,
        FingerprintKeyMissingError,
        field="accepted_master_keys",
        reason="FINGERPRINT_KEY_MISSING",
    )
    with missing():
        keys_on(engine, BOTH).fingerprint_key()
    with missing():
        keys_on(engine, BOTH).require_fingerprint_key()
    first = keys_on(engine, MasterKey(MASTER)).fingerprint_key()
    assert keys_on(engine, BOTH).fingerprint_key() == first
    keys_on(engine, BOTH).require_fingerprint_key()


async def test_service_upgraded_during_a_rotation_does_not_start(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    keys_on(engine, MasterKey(MASTER)).get_or_create(PRINCIPALS)
    with refused(FingerprintKeyMissingError):
        async with running(tmp_path, master_key=NEW, accepted_master_keys=MASTER):
            pass
    with refused(FingerprintKeyMissingError):
        run(tmp_path, master_key=NEW, accepted_master_keys=MASTER)
    assert keys_on(engine, MasterKey(MASTER)).existing(PRINCIPALS).keys() == PRINCIPALS.keys()
    engine.dispose()


def run(tmp_path: Path, **changes: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser)
    settings = FeedbackSettings(
        principal_key=KEY, database_url=f"sqlite:///{tmp_path}/ledger.db", **changes
    )
    return run_command(settings, parser.parse_args(["rotate-master-key"]))


def test_command_reports_progress_and_refuses_to_run_without_the_previous_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    keys = keys_on(engine, MasterKey(MASTER))
    keys.get_or_create(PRINCIPALS)
    keys.fingerprint_key()
    engine.dispose()
    assert run(tmp_path, master_key=NEW) == 2
    assert "accepted_master_keys" in capsys.readouterr().err
    assert run(tmp_path, master_key=NEW, accepted_master_keys="00" * 32) == 1
    assert run(tmp_path, master_key=NEW, accepted_master_keys=MASTER) == 0
    assert "46 of 46" in capsys.readouterr().out


@pytest.mark.parametrize("accepted", ["5e", f"{MASTER},", f"{MASTER} {NEW}", "xy" * 32])
def test_malformed_accepted_keys_are_rejected_and_hidden(accepted: str) -> None:
    with pytest.raises(ValueError, match="accepted_master_keys") as caught:
        FeedbackSettings(principal_key=KEY, master_key=MASTER, accepted_master_keys=accepted)
    assert accepted not in str(caught.value)
