"""The rollout file: a complete round trip, or an error that names the file."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from services.chassis.errors import UnavailableError
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    STORE_UNAVAILABLE,
    StoredRollout,
    UnusableStoreError,
)
from services.generator.rollout.rollout import Candidate, Change, ChangeKind, Deployment, Rollout
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


async def test_a_failed_write_is_reported_and_stores_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "rollout.new").mkdir()  # blocks the path of the temporary file
    file = RolloutFile(tmp_path / "rollout.json")
    with pytest.raises(UnavailableError) as caught:
        await file.replace(Rollout(stable=Deployment("v1", "/models")), 0)
    assert caught.value.reason == STORE_UNAVAILABLE
    assert await file.load() == NOTHING_STORED


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
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "stable": {"version": "v1"}}']
)
async def test_an_unreadable_file_is_named_and_not_overwritten(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "rollout.json"
    path.write_text(content)
    with refused(UnusableStoreError, field=str(path), reason="MALFORMED"):
        await RolloutFile(path).load()
    assert path.read_text() == content
