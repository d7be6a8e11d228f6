"""Hashes of inputs: contents of files and folders, not their names or times."""

import shutil
from pathlib import Path

import pytest

from tests.training.toys import toy_model
from training.artifacts import inputs
from training.artifacts.inputs import UNHASHED, hash_input
from training.artifacts.manifest import MANIFEST, hash_file, read_manifest, write_manifest


def test_file_has_the_hash_of_its_contents(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert hash_input(path) is None
    path.write_text("{}\n")
    assert hash_input(path) == hash_file(path)


def test_folder_with_a_manifest_has_its_hash_until_a_file_changes(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "toy")
    first = hash_input(model)
    assert first == read_manifest(model).sha256
    (model / "notes.json").write_text("{}")
    assert hash_input(model) == first, "the manifest does not name it"
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    assert hash_input(copy) == first
    config = copy / "config.json"
    config.write_text(config.read_text() + " ")
    assert hash_input(copy) != first
    config.unlink()
    assert hash_input(copy) is None


def test_folder_without_a_manifest_has_a_hash_of_the_files_of_a_model(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "toy")
    (model / MANIFEST).write_text('{"of": "another program"}')
    first = hash_input(model)
    for name in ("README.md", ".cache.json", MANIFEST):
        (model / name).write_text("other")
        assert hash_input(model) == first
    (model / "model.safetensors").write_bytes(b"other")
    assert hash_input(model) != first
    (tmp_path / "empty").mkdir()
    assert hash_input(tmp_path / "empty") == UNHASHED


def test_shards_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train-00000.bin").write_bytes(b"tokens")
    manifest = write_manifest(tmp_path, kind="token_shards", version="shards")
    monkeypatch.setattr(inputs, "hash_file", lambda path: pytest.fail(f"{path} was read"))
    assert hash_input(tmp_path) == manifest.sha256
