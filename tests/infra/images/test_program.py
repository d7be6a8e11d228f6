"""Image of a program: a single executable file and an unprivileged user."""

import gzip
import io
import json
import tarfile
from pathlib import Path

from infra.images.program import write_program_image


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
