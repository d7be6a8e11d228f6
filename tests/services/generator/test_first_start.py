"""The very first start: the stable version of the settings, or words about what is missing."""

from pathlib import Path

import pytest

from services.generator.__main__ import first_rollout
from services.generator.manifest import NoManifestError
from services.generator.rollout import Deployment, Rollout
from services.generator.store import RolloutFile, RolloutFileError
from tests.services.generator.service import model_directory


def test_the_stable_version_is_the_one_that_the_manifest_names_and_is_kept(tmp_path: Path) -> None:
    keeper, directory = RolloutFile(tmp_path / "rollout.json"), model_directory(tmp_path, "v1")
    rollout = first_rollout(keeper, directory)
    assert rollout.stable == Deployment("v1", str(directory))
    assert first_rollout(keeper, model_directory(tmp_path, "v9")) == rollout


def test_without_any_directory_there_is_no_version_yet(tmp_path: Path) -> None:
    assert first_rollout(RolloutFile(tmp_path / "rollout.json"), None) == Rollout()
    assert not (tmp_path / "rollout.json").exists()


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"version": ""}'])
def test_a_directory_without_a_finished_model_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(NoManifestError, match=r"manifest\.json"):
        first_rollout(RolloutFile(tmp_path / "rollout.json"), tmp_path)


def test_a_rollout_file_that_is_not_understood_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text("{")
    with pytest.raises(RolloutFileError):
        first_rollout(RolloutFile(tmp_path / "rollout.json"), model_directory(tmp_path, "v1"))
