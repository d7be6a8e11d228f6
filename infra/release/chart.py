"""Chart of a release: the digests of its images in the values, packaged reproducibly.

Helm packages the chart, and the archive is written again with sorted entries and constant times,
because Helm records the time of packaging. The same bytes are the layer of an OCI artifact.
"""

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from infra.machine.images.archive import ImageDescription, write_archive
from infra.machine.images.layer import TIME, Blob, Layer
from infra.release.errors import ReleaseError

CONFIG_TYPE = "application/vnd.cncf.helm.config.v1+json"
CONTENT_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image"


@dataclass(frozen=True)
class ChartInputs:
    """Inputs of the chart of a release.

    Args:
        folder: folder with Chart.yaml.
        digests: digests of images by their name in `images` of the values, as `sha256:…`.
        registry: value of `imageRegistry`; empty keeps the default.
        home: URL of the project in place of the placeholder; empty keeps it.
        changes: entries of the changelog as pairs of kind and text.
        evidence: files of the release by which it is checked, with their digests, by name.
    """

    folder: Path
    digests: Mapping[str, str]
    registry: str = ""
    home: str = ""
    changes: Sequence[tuple[str, str]] = field(default=())
    evidence: Mapping[str, str] = field(default_factory=dict)


def chart_metadata(folder: Path) -> dict[str, Any]:
    """Return the content of Chart.yaml."""
    found: dict[str, Any] = yaml.safe_load((folder / "Chart.yaml").read_text())
    return found


def values_of_release(text: str, digests: Mapping[str, str], registry: str) -> str:
    """Return values.yaml with digests and registry; comments and all other lines stay.

    Raises:
        ReleaseError: an image is not in the values in the expected form.
    """
    for name, digest in digests.items():
        text, count = re.subn(
            rf'^(  {name}: \{{.*\bdigest: )"[^"]*"', rf'\g<1>"{digest}"', text, flags=re.MULTILINE
        )
        _require_one(count, f"images.{name}.digest")
    if registry:
        text, count = re.subn(
            r'^imageRegistry: "[^"]*"$', f'imageRegistry: "{registry}"', text, flags=re.MULTILINE
        )
        _require_one(count, "imageRegistry")
    return text


def image_references(values: Mapping[str, Any], version: str) -> dict[str, tuple[str, str]]:
    """Return the reference and the tag of each image in the values, by name.

    The reference has the digest if the values have one, the tag otherwise, as in the chart's
    template.
    """
    found = {}
    for name, image in values["images"].items():
        registry = image.get("registry") or values["imageRegistry"]
        place = f"{registry}/{image['repository']}" if registry else image["repository"]
        tag = image.get("tag") or version
        found[name] = (
            (f"{place}@{image['digest']}" if image.get("digest") else f"{place}:{tag}"),
            tag,
        )
    return found


def package_chart(inputs: ChartInputs, helm: Path, target: Path) -> Path:
    """Write `NAME-VERSION.tgz` into the folder `target` and return its path.

    Raises:
        ReleaseError: Helm refuses the chart, or the values lack an image.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch, inputs.folder.name)
        shutil.copytree(inputs.folder, copied)
        values = copied / "values.yaml"
        values.write_text(values_of_release(values.read_text(), inputs.digests, inputs.registry))
        metadata = _described(chart_metadata(copied), yaml.safe_load(values.read_text()), inputs)
        (copied / "Chart.yaml").write_text(yaml.safe_dump(metadata, sort_keys=True))
        done = subprocess.run(
            [str(helm), "package", str(copied), "--destination", scratch],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ReleaseError(
                f"helm package refuses the chart: {done.stderr.strip()}",
                field="chart",
                reason="MALFORMED",
            )
        (packed,) = Path(scratch).glob("*.tgz")
        written = target / packed.name
        _write_constant(packed, written)
        return written


def write_chart_archive(package: Path, reference: str, target: Path) -> str:
    """Write the OCI archive of a packaged chart and return the digest of its manifest."""
    with tarfile.open(package) as tar:
        (name,) = {each.split("/")[0] for each in tar.getnames()}
        content = tar.extractfile(f"{name}/Chart.yaml")
        if content is None:
            raise ReleaseError("Chart.yaml is no file", field=package.name, reason="MALFORMED")
        metadata = yaml.safe_load(content)
    data = package.read_bytes()
    blob = Blob(package, hashlib.sha256(data).hexdigest(), len(data))
    config = json.dumps(metadata, sort_keys=True).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(CONTENT_TYPE, data)],
            "annotations": {
                f"{TITLE}.title": metadata["name"],
                f"{TITLE}.version": metadata["version"],
                f"{TITLE}.description": metadata["description"],
            },
        },
        sort_keys=True,
    ).encode()
    entry = _descriptor(MANIFEST_TYPE, manifest)
    texts = {hashlib.sha256(text).hexdigest(): text for text in (config, manifest)}
    # A chart has no uncompressed form that a runtime would unpack, so no second digest.
    artifact = ImageDescription([Layer(blob, "")], texts, entry)
    write_archive(target, reference, artifact)
    return artifact.digest


def _described(
    metadata: dict[str, Any], values: Mapping[str, Any], inputs: ChartInputs
) -> dict[str, Any]:
    """Return Chart.yaml with the annotations of Artifact Hub for images and changes."""
    images = [
        {"name": name, "image": reference}
        for name, (reference, _) in image_references(values, metadata["appVersion"]).items()
    ]
    changes = [{"kind": kind, "description": text} for kind, text in inputs.changes]
    annotations = {
        **metadata.get("annotations", {}),
        "artifacthub.io/images": yaml.safe_dump(images, sort_keys=True),
        **({"artifacthub.io/changes": yaml.safe_dump(changes, width=1000)} if changes else {}),
        **{f"thumbwheel/{name}": text for name, text in inputs.evidence.items()},
    }
    home = {"home": inputs.home, "sources": [inputs.home]} if inputs.home else {}
    return {**metadata, **home, "annotations": annotations}


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _write_constant(packed: Path, target: Path) -> None:
    """Copy a gzipped tar with sorted entries, constant times and no owner."""
    plain = io.BytesIO()
    with tarfile.open(packed) as source, tarfile.open(fileobj=plain, mode="w") as tar:
        for member in sorted(source.getmembers(), key=lambda each: each.name):
            entry = tarfile.TarInfo(member.name)
            entry.size, entry.mtime, entry.mode = member.size, TIME, 0o644
            tar.addfile(entry, source.extractfile(member))
    target.write_bytes(gzip.compress(plain.getvalue(), mtime=0))


def _require_one(count: int, name: str) -> None:
    if count != 1:
        raise ReleaseError(
            f"values.yaml has {count} lines with {name} in the expected form, not 1",
            field=name,
            reason="MALFORMED",
        )
