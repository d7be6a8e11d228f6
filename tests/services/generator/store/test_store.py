"""The rollout file: a complete round trip, or an error that names the file."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from services.chassis.audit.acts import Act
from services.chassis.errors import UnavailableError
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    STORE_UNAVAILABLE,
    CurrentRollout,
    StoredRollout,
    UnusableStoreError,
)
from services.generator.rollout.encoding import encode
from services.generator.rollout.rollout import (
    Candidate,
    Change,
    ChangeKind,
    Deployment,
    Halt,
    Rollout,
)
from services.generator.store.store import RolloutFile
from tests.services.generator.rollouts import rollouts
from tests.support.errors import refused


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rollout=rollouts)
async def test_a_stored_rollout_survives_a_restart(tmp_path: Path, rollout: Rollout) -> None:
    path = tmp_path / "state" / "rollout.json"
    file = RolloutFile(path)
    assert await file.replace(rollout, (await file.load()).serial)
    assert (await RolloutFile(path).load()).rollout == (await file.load()).rollout == rollout
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["rollout.json"]


async def test_an_outdated_serial_replaces_nothing(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path / "rollout.json")
    first, second = (Rollout(stable=Deployment(version, "/models")) for version in ("v1", "v2"))
    assert await file.replace(first, 0)
    assert not await file.replace(second, 0)
    assert await file.load() == StoredRollout(first, 1)
    assert await file.replace(second, 1)
    assert await file.load() == StoredRollout(second, 2)


async def test_a_missing_file_is_an_empty_rollout(tmp_path: Path) -> None:
    assert await RolloutFile(tmp_path / "rollout.json").load() == NOTHING_STORED


async def test_a_failed_write_is_reported_and_stores_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.write_text("")  # blocks the path of the folder, for root too
    with refused(UnavailableError, reason=STORE_UNAVAILABLE):
        await RolloutFile(folder / "rollout.json").replace(
            Rollout(stable=Deployment("v1", "/models")), 0
        )
    folder.unlink()
    assert await RolloutFile(folder / "rollout.json").load() == NOTHING_STORED


async def test_unreadable_file_counts_as_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    file = RolloutFile(path)
    stored = Rollout(stable=Deployment("v1", "/models"))
    assert await file.replace(stored, 0)
    current = CurrentRollout(file, await file.load(), lambda: 7)
    path.unlink()
    path.mkdir()  # reading a directory raises OSError for every user, root included
    with refused(UnavailableError, reason=STORE_UNAVAILABLE):
        await file.load()
    await current.refresh()
    assert (current.rollout, current.stale_since_us) == (stored, 7)


async def test_a_halted_rollout_has_a_format_that_earlier_versions_refuse(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    file = RolloutFile(path)
    rollout = Rollout(stable=Deployment("v1", "/models"))
    for number, each in enumerate((rollout, rollout.halted(Halt(7, "ada", "odd")), rollout)):
        assert await file.replace(each, number)
        assert json.loads(path.read_text())["format"] == (1 if each.halt is None else 2)
        assert (await RolloutFile(path).load()).rollout == each


async def test_a_halt_of_format_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    rollout = Rollout(stable=Deployment("v1", "/models")).halted(Halt(7, "ada", "odd"))
    path.write_text(encode(rollout).replace('"format": 2', '"format": 1'))
    assert (await RolloutFile(path).load()).rollout == rollout


async def test_incomplete_audit_record_hides_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, log = RolloutFile(tmp_path / "rollout.json"), tmp_path / "audit.jsonl"
    await file.append(Act("canary started", "training", "v1"))
    log.write_bytes(log.read_bytes() + b'{"time_us": 1, "act": "canary pro')
    await file.append(Act("canary started", "training", "v2"))
    assert [record["object"] for record in await file.audit_records(0)] == ["v1", "v2"]
    assert f"{log}: 1 " in capsys.readouterr().err


async def test_a_file_of_format_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    path.write_text(
        """{"format": 1, "stable": {"version": "v1", "directory": "/models/v1"},
        "candidate": {"version": "v2", "directory": "/models/v2", "share": 0.2, "lease_end_us": 5,
        "live": true}, "retired": ["v0"],
        "history": [{"time_us": 4, "kind": "started", "version": "v2", "reason": "share 0.2"}]}"""
    )
    assert (await RolloutFile(path).load()).rollout == Rollout(
        stable=Deployment("v1", "/models/v1"),
        candidate=Candidate("v2", "/models/v2", 0.2, 5, live=True),
        retired=("v0",),
        history=(Change(4, ChangeKind.STARTED, "v2", "share 0.2"),),
    )


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 3}', '{"format": 1, "stable": {"version": "v1"}}']
)
async def test_an_unreadable_file_is_named_and_not_overwritten(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "rollout.json"
    path.write_text(content)
    with refused(UnusableStoreError, field=str(path), reason="MALFORMED"):
        await RolloutFile(path).load()
    assert path.read_text() == content
