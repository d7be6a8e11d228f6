"""Imports into and from an object store, and the versions in it."""

import os
from pathlib import Path

import pytest

from tests.s3_server import S3Server
from tests.support.errors import refused
from tests.support.interrupted_source import InterruptedSource
from tests.training.refused_commands import refused_command
from training.__main__ import main
from training.artifacts.manifest import MANIFEST, Manifest, verify_manifest
from training.cluster.bucket_checkpoints import CheckpointBucket
from training.data.feedback.bucket import BucketLocation
from training.errors import UnavailableError
from training.model_store.bucket import BucketSource, ModelBucket, parse_url
from training.model_store.destination import BucketDestination, DirectoryDestination
from training.model_store.importing import import_model
from training.model_store.source import ModelImportError, Source, SourceFile

URL = parse_url("s3://team/models", "--to")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def bucket(store: S3Server) -> CheckpointBucket:
    assert store.buckets
    endpoint = os.environ["TW_TRAINING_S3_ENDPOINT"]
    place = BucketLocation(endpoint, "key", "secret", "team", secure=False)
    return CheckpointBucket(place, pause_seconds=0.0)


def imported(source: Source, bucket: CheckpointBucket, scratch: Path) -> Manifest:
    destination = BucketDestination(ModelBucket(bucket, URL), scratch)
    return import_model(source, "toy-1", destination, (), print)


def test_command_imports_into_the_store_and_back(
    store: S3Server, model: Path, tmp_path: Path
) -> None:
    words = ["import", str(model), "--name", "toy-1", "--to", "s3://team/models"]
    assert main(words) == 0
    objects = store.buckets["team"]
    assert {"models/toy-1/config.json", f"models/toy-1/{MANIFEST}"} <= objects.keys()
    assert not [key for key in objects if key.endswith("import.json")]
    back = ["import", "s3://team/models/toy-1", "--name", "toy-2", "--to", str(tmp_path / "here")]
    assert main(back) == 0
    found = verify_manifest(tmp_path / "here" / "toy-2")
    assert found.parents == ("s3://team/models/toy-1",)
    for shard in SHARDS:
        assert (tmp_path / "here" / "toy-2" / shard).read_bytes() == (model / shard).read_bytes()


def test_manifest_is_written_last(
    bucket: CheckpointBucket, store: S3Server, model: Path, tmp_path: Path
) -> None:
    found = imported(InterruptedSource(model), bucket, tmp_path)
    keys = list(store.buckets["team"])
    assert keys[-1] == f"models/toy-1/{MANIFEST}"
    assert {key.removeprefix("models/toy-1/") for key in keys} == {*found.files, MANIFEST}


def test_second_import_fetches_nothing(
    bucket: CheckpointBucket, model: Path, tmp_path: Path
) -> None:
    imported(InterruptedSource(model), bucket, tmp_path)
    source = InterruptedSource(model)
    imported(source, bucket, tmp_path)
    assert source.fetched == []


def test_interrupted_import_continues_without_the_scratch_folder(
    bucket: CheckpointBucket, store: S3Server, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        imported(InterruptedSource(model, SHARDS[1]), bucket, tmp_path / "first")
    assert f"models/toy-1/{MANIFEST}" not in store.buckets["team"]
    assert ModelBucket(bucket, URL).versions() == []
    source = InterruptedSource(model)
    imported(source, bucket, tmp_path / "second")
    assert [name for name in source.fetched if name in SHARDS] == [SHARDS[1]]
    assert ModelBucket(bucket, URL).versions() == ["toy-1"]


def test_weights_are_removed_from_the_scratch_folder_one_by_one(
    bucket: CheckpointBucket, model: Path, tmp_path: Path
) -> None:
    class Watching(InterruptedSource):
        def fetch(self, file: SourceFile, into: Path) -> None:
            assert not list(into.glob("*.safetensors"))
            super().fetch(file, into)

    imported(Watching(model), bucket, tmp_path / "scratch")
    assert not list((tmp_path / "scratch").rglob("*.safetensors"))


def test_damaged_object_is_refused(
    bucket: CheckpointBucket, store: S3Server, model: Path, tmp_path: Path
) -> None:
    imported(InterruptedSource(model), bucket, tmp_path)
    key = f"models/toy-1/{SHARDS[0]}"
    store.buckets["team"][key] = store.buckets["team"][key][::-1]
    url = parse_url("s3://team/models/toy-1", "SOURCE")
    with refused(ModelImportError, field=SHARDS[0], reason="MISMATCH"):
        import_model(
            BucketSource(bucket, url), "toy-2", DirectoryDestination(tmp_path / "h"), (), print
        )


def test_model_without_manifest_is_imported_from_a_store(
    bucket: CheckpointBucket, store: S3Server, model: Path, tmp_path: Path
) -> None:
    for path in model.iterdir():
        store.buckets["team"][f"upload/{path.name}"] = path.read_bytes()
    source = BucketSource(bucket, parse_url("s3://team/upload/", "SOURCE"))
    for _ in range(2):
        import_model(source, "toy-1", DirectoryDestination(tmp_path / "here"), (), print)
    verify_manifest(tmp_path / "here" / "toy-1")


def test_removed_version_loses_its_manifest_first(
    bucket: CheckpointBucket,
    store: S3Server,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported(InterruptedSource(model), bucket, tmp_path)
    versions = ModelBucket(bucket, URL)
    removed: list[str] = []
    monkeypatch.setattr(bucket, "remove", removed.append)
    versions.remove("toy-1")
    assert removed[0] == f"models/toy-1/{MANIFEST}"
    assert {*removed} == store.buckets["team"].keys()


def test_store_that_refuses_is_reported_in_one_line(
    store: S3Server, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.buckets.clear()
    words = ["import", str(model), "--name", "toy-1", "--to", "s3://team/models"]
    refused_command(words, capsys, UnavailableError, reason="DENIED")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["no/such/path/here", "--to", "x"], "SOURCE"),
        (["s3://", "--to", "x"], "SOURCE"),
        ([".", "--to", "s3://T/models"], "--to"),
    ],
)
def test_malformed_place_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], field: str
) -> None:
    refused_command(["import", "--name", "toy-1", *words], capsys, field=field)
