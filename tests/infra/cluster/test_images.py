"""An archive of one program: whole, pointing at itself by digests, and the same each time."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from infra.cluster.images import write_image

REFERENCE = "localhost/tool:1"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "tool").write_bytes(b"program")
    write_image(tmp_path / "tool", REFERENCE, tmp_path / "tool.tar")
    return tmp_path / "tool.tar"


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {entry.name: content.read() for entry in tar if (content := tar.extractfile(entry))}


def test_digests_lead_from_the_index_to_the_program(archive: Path) -> None:
    files = contents(archive)
    (named,) = json.loads(files["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == REFERENCE

    def blob(described: dict[str, str | int]) -> bytes:
        found = files[f"blobs/{str(described['digest']).replace(':', '/')}"]
        assert len(found) == described["size"]
        assert f"sha256:{hashlib.sha256(found).hexdigest()}" == described["digest"]
        return found

    manifest = json.loads(blob(named))
    configuration, (layer,) = json.loads(blob(manifest["config"])), manifest["layers"]
    assert configuration["config"] == {"Entrypoint": ["/tool"], "User": "65532:65532", "WorkingDir": "/"}
    assert configuration["rootfs"]["diff_ids"] == [layer["digest"]]
    with tarfile.open(fileobj=io.BytesIO(blob(layer))) as tar:
        (entry,) = tar
        assert (entry.name, entry.mode, entry.mtime) == ("tool", 0o755, 0)


def test_the_same_program_makes_the_same_archive(archive: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "tool", REFERENCE, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
