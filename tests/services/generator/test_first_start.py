"""The first start: the stable version of the settings, or an error that names the missing file."""

from pathlib import Path

import pytest

from services.generator.__main__ import first_rollout
from services.generator.rollout.canary import ManifestError
from services.generator.rollout.current_rollout import NOTHING_STORED, UnusableStoreError
from services.generator.rollout.rollout import Deployment
from services.generator.store.store import RolloutFile
from tests.services.generator.service import model_directory
from tests.support.errors import refused


async def test_the_first_stable_version_comes_from_the_manifest_and_is_kept(
    tmp_path: Path,
) -> None:
    file, directory = tmp_path / "rollout.json", model_directory(tmp_path, "v1")
    stored = await first_rollout(RolloutFile(file), directory)
    assert stored.rollout.stable == Deployment("v1", str(directory))
    assert await first_rollout(RolloutFile(file), model_directory(tmp_path, "v9")) == stored


async def test_without_a_stable_directory_nothing_is_stored(tmp_path: Path) -> None:
    assert await first_rollout(RolloutFile(tmp_path / "rollout.json"), None) == NOTHING_STORED
    assert not (tmp_path / "rollout.json").exists()


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        (None, "manifest.json", "MISSING"),
        ("", "manifest.json", "MALFORMED"),
        ("[]", "version", "MISSING"),
        ("{}", "version", "MISSING"),
        ('{"version": ""}', "version", "MISSING"),
    ],
)
async def test_a_directory_without_a_finished_model_is_refused(
    tmp_path: Path, content: str | None, field: str, reason: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with refused(ManifestError, reason=reason) as caught:
        await first_rollout(RolloutFile(tmp_path / "rollout.json"), tmp_path)
    assert Path(caught.value.field).name == field


async def test_an_unreadable_rollout_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text("{")
    with refused(UnusableStoreError, field=str(tmp_path / "rollout.json"), reason="MALFORMED"):
        await first_rollout(RolloutFile(tmp_path / "rollout.json"), model_directory(tmp_path, "v1"))
