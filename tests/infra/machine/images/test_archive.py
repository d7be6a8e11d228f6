"""Image archives are OCI image layouts: blobs are stored and referenced by digest."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from infra.machine.images.archive import describe, write_archive, write_program_image
from infra.machine.images.layer import Layer, LayerWriter


def layer(folder: Path, name: str) -> Layer:
    with LayerWriter(folder / f"{name}.tar.gz") as writer:
        writer.data(f"/{name}", name.encode())
    return writer.layer


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        names = tar.getnames()
        return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def test_index_leads_to_all_blobs_by_digest(tmp_path: Path) -> None:
    layers = [layer(tmp_path, "one"), layer(tmp_path, "two")]
    image = describe(layers, {"User": "10001:10001"})
    write_archive(tmp_path / "image.tar", "localhost/two:1", image)
    files = read(tmp_path / "image.tar")

    def follow(described: Any) -> bytes:
        found = files[f"blobs/sha256/{described['digest'].removeprefix('sha256:')}"]
        assert (len(found), hashlib.sha256(found).hexdigest()) == (
            described["size"],
            described["digest"][7:],
        )
        return found

    assert json.loads(files["oci-layout"])["imageLayoutVersion"] == "1.0.0"
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == image.digest
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/two:1"
    manifest = json.loads(follow(entry))
    config = json.loads(follow(manifest["config"]))
    tars = [gzip.decompress(follow(described)) for described in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [
        f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars
    ]
    assert config["config"] == {"User": "10001:10001"}
    assert len(files) == 2 + 2 + len(layers)


def test_archives_of_equal_layers_are_equal(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_archive(
            tmp_path / f"{name}.tar", "localhost/x:1", describe([layer(tmp_path / name, "one")], {})
        )
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_image_contains_only_the_program(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"program")
    (tmp_path / "tool").chmod(0o700)
    write_program_image(tmp_path / "tool", "localhost/tool:1", tmp_path / "tool.tar")
    with tarfile.open(tmp_path / "tool.tar") as tar:
        names = tar.getnames()
        files = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])
    config = json.loads(files[f"blobs/sha256/{manifest['config']['digest'][7:]}"])["config"]
    assert (config["Entrypoint"], config["User"]) == (["/tool"], "65532:65532")
    (layer,) = [files[f"blobs/sha256/{each['digest'][7:]}"] for each in manifest["layers"]]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as tar:
        (only,) = tar
        assert (only.name, only.mode) == ("tool", 0o755)
