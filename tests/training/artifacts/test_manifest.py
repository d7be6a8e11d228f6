"""manifest.json has every field and every file, and is written last and atomically."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.artifacts.manifest import (
    ManifestError,
    hash_file,
    mark_erased,
    read_manifest,
    verify_manifest,
    write_manifest,
)

FIELDS = {
    "format",
    "kind",
    "version",
    "created",
    "parents",
    "files",
    "config",
    "code_commit",
    "seeds",
    "data",
    "report",
    "licence",
}


@dataclass(frozen=True)
class Recipe:
    where: Path
    sizes: tuple[int, ...]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "adapter" / "manifest.json").write_text("{}")
    write_manifest(
        tmp_path,
        kind="model",
        version="v2",
        parents=["v1", "rm"],
        config=Recipe(Path("some/where"), (1, 2)),
        code_commit="abc",
        seeds={"run": 7},
        data={"snapshot": "s1", "sha256": "00"},
        report={"loss": 0.5},
        licence="Apache-2.0",
    )
    return tmp_path


def test_file_has_exactly_the_fields_of_the_schema(artifact: Path) -> None:
    written = json.loads((artifact / "manifest.json").read_text())
    assert set(written) == FIELDS
    assert written["config"] == {"where": "some/where", "sizes": [1, 2]}
    assert written["created"].endswith("Z")
    assert written["files"]["model.safetensors"] == hash_file(artifact / "model.safetensors")
    assert set(written["files"]) == {"model.safetensors", "adapter/manifest.json"}
    assert not list(artifact.glob("*.partial"))


def test_manifest_is_read_as_written(artifact: Path) -> None:
    manifest = verify_manifest(artifact)
    assert (manifest.version, manifest.parents, manifest.seeds, manifest.report) == (
        "v2",
        ("v1", "rm"),
        {"run": 7},
        {"loss": 0.5},
    )


def test_directory_without_a_manifest_is_unfinished(tmp_path: Path) -> None:
    with refused(ManifestError, field="manifest.json", reason="MISSING"):
        read_manifest(tmp_path)


def test_changed_and_missing_files_are_named(artifact: Path) -> None:
    (artifact / "model.safetensors").write_bytes(b"weightz")
    with refused(ManifestError, field="model.safetensors", reason="MISMATCH"):
        verify_manifest(artifact)
    (artifact / "model.safetensors").unlink()
    with refused(ManifestError, field="model.safetensors", reason="MISSING"):
        verify_manifest(artifact)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "MALFORMED"),
        (b"\xa4\x19", "NOT_UTF8"),
        (b"[]", "MISMATCH"),
        (b'{"format": 1}', "MISMATCH"),
    ],
)
def test_malformed_manifest_is_rejected(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with refused(ManifestError, field="manifest.json", reason=reason):
        read_manifest(tmp_path)


def test_unknown_format_is_rejected(artifact: Path) -> None:
    written = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps({**written, "format": 2}))
    with refused(ManifestError, field="format", reason="UNSUPPORTED", limit="1"):
        read_manifest(artifact)


def test_erasures_are_recorded_once_and_invalidate_the_artifact(artifact: Path) -> None:
    mark_erased(artifact, [3, 1])
    first = read_manifest(artifact)
    mark_erased(artifact, [3, 4])
    marked = read_manifest(artifact)
    assert [erasure["number"] for erasure in marked.erased] == [1, 3, 4]
    assert marked.erased[:2] == first.erased
    assert set(json.loads((artifact / "manifest.json").read_text())) == {*FIELDS, "erased"}
    with refused(ManifestError, field="v2", reason="ERASED") as caught:
        verify_manifest(artifact)
    assert marked.erased[-1]["time"] in str(caught.value)
