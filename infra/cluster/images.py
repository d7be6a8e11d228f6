"""An image of one static program, as an OCI archive: two tars and a little JSON, the same bytes from the same program."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NOBODY = "65532:65532"
OCI = "application/vnd.oci.image"


def write_image(program: Path, reference: str, archive: Path, user: str = NOBODY) -> None:
    """The image starts the program, which lies at its root, as a user that is not root."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    platform = {"architecture": ARCHITECTURES[os.uname().machine], "os": "linux"}
    configuration = {
        **platform,
        "config": {"User": user, "Entrypoint": [f"/{program.name}"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    config = json.dumps(configuration, sort_keys=True).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(config, f"{OCI}.config.v1+json"),
            "layers": [_descriptor(layer, f"{OCI}.layer.v1.tar")],
        },
        sort_keys=True,
    ).encode()
    # containerd names what it imports after the first of the two, other tools after the second.
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
    described = {**_descriptor(manifest, f"{OCI}.manifest.v1+json"), "platform": platform, "annotations": names}
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [described]}
    blobs = {f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (layer, config, manifest)}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index, sort_keys=True).encode()}
    archive.write_bytes(_tar({**files, **blobs}, mode=0o644))


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)  # its time is the epoch
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(blob: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
