"""OCI image archive (image-spec 1.1, image layout).

`ctr images import`, podman and skopeo read this format.
"""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.machine.images.layer import TIME, Layer, LayerWriter

MEDIA = "application/vnd.oci.image"
CREATED = "2026-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
UNPRIVILEGED = "65532:65532"


@dataclass(frozen=True)
class ImageDescription:
    """Description of an image before the archive is written.

    `texts` holds the config and the manifest by digest. `entry` describes the manifest in the
    index.
    """

    layers: Sequence[Layer]
    texts: Mapping[str, bytes]
    entry: Mapping[str, object]

    @property
    def digest(self) -> str:
        return str(self.entry["digest"])


def describe(layers: Sequence[Layer], config: Mapping[str, object]) -> ImageDescription:
    """Describe an image; `config` is the image-spec's `config`: User, Env, Entrypoint, …"""
    texts: dict[str, bytes] = {}

    def put(kind: str, value: object) -> dict[str, object]:
        text = json.dumps(value, sort_keys=True).encode()
        digest = hashlib.sha256(text).hexdigest()
        texts[digest] = text
        return {
            "mediaType": f"{MEDIA}.{kind}.v1+json",
            "digest": f"sha256:{digest}",
            "size": len(text),
        }

    where = {"architecture": ARCHITECTURES[platform.machine()], "os": "linux"}
    history = {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]}
    described = put("config", {**where, "created": CREATED, "config": config, "rootfs": history})
    packed = [
        {
            "mediaType": f"{MEDIA}.layer.v1.tar+gzip",
            "digest": f"sha256:{layer.blob.sha256}",
            "size": layer.blob.size,
        }
        for layer in layers
    ]
    manifest = put("manifest", {"schemaVersion": 2, "config": described, "layers": packed})
    return ImageDescription(layers, texts, {**manifest, "platform": where})


def write_archive(path: Path, reference: str, image: ImageDescription) -> None:
    """Write an image archive atomically."""
    named = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
    index = {"schemaVersion": 2, "manifests": [{**image.entry, "annotations": named}]}
    texts = {**image.texts, "index.json": json.dumps(index, sort_keys=True).encode()}
    files = {layer.blob.sha256: layer.blob.path for layer in image.layers}
    partial = path.with_name(f"{path.name}.partial")
    with tarfile.open(partial, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", texts["index.json"])
        # Sorted, so that equal images yield equal archives.
        for digest in sorted({*texts, *files} - {"index.json"}):
            _add(tar, f"blobs/sha256/{digest}", texts[digest] if digest in texts else files[digest])
    partial.rename(path)


def write_program_image(program: Path, reference: str, archive: Path) -> None:
    """Write an image of a static program that runs as an unprivileged user.

    The program is at the root, and the image contains no other file.
    """
    with tempfile.TemporaryDirectory() as folder:
        with LayerWriter(Path(folder) / "layer.tar.gz") as writer:
            writer.file(program, f"/{program.name}")
        config = {"User": UNPRIVILEGED, "Entrypoint": [f"/{program.name}"], "WorkingDir": "/"}
        write_archive(archive, reference, describe([writer.layer], config))


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime = TIME
    if isinstance(content, bytes):
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
        return
    entry.size = content.stat().st_size
    with content.open("rb") as blob:
        tar.addfile(entry, blob)
