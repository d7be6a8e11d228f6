"""Steps of a release, in their order."""

import datetime
import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from infra.machine.images.archive import write_archive
from infra.machine.images.build import built_image, locks_of
from infra.machine.images.catalogue import ROOT, read_catalogue
from infra.release.changelog import changes_of
from infra.release.chart import (
    ChartInputs,
    chart_metadata,
    image_references,
    package_chart,
    values_of_release,
    write_chart_archive,
)
from infra.release.components import Component, components_of
from infra.release.errors import ReleaseError
from infra.release.licences import Policy, read_policy, report
from infra.release.provenance import Run, source_of, statement
from infra.release.sbom import image_bom, release_bom
from infra.release.signing import PUBLIC_KEY, file_digest, public_pem, sign, write_sums

Say: TypeAlias = Callable[[str], None]
# Digest of the manifest and components, by the name of the image.
Images: TypeAlias = dict[str, tuple[str, Sequence[Component]]]
CHART = ROOT / "charts" / "thumbwheel"
# Helm, kubectl, and the packages of the build itself.
TOOLS = (Path("locks/cluster/clients.txt"), Path("locks/dev.txt"))


@dataclass(frozen=True)
class Options:
    """Options of a release.

    Args:
        folder: parent of the folder of the version.
        images: names of images to build.
        registry: registry of all images, for the chart's values and the references of archives.
        home: URL of the project; empty keeps the placeholder of Chart.yaml.
        digests: digests of images that are not built here, by name.
        allow_modified: accept a clone with changes that no commit contains.
        helm: path of Helm.
    """

    folder: Path
    images: Sequence[str]
    helm: Path
    registry: str = ""
    home: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    allow_modified: bool = False


def build_release(
    options: Options, run: Run, key: EllipticCurvePrivateKey | None, say: Say
) -> Path:
    """Write all files of the release and return their folder.

    Args:
        key: key that signs the digests; None leaves the release unsigned.

    Raises:
        ReleaseError: versions differ, the folder exists, or an input is missing.
    """
    source = source_of(ROOT, options.allow_modified)
    version = _version()
    changes = changes_of((ROOT / "CHANGELOG.md").read_text(), version)
    folder = options.folder / version
    if folder.exists():
        raise ReleaseError(f"{folder} exists; remove it first", field="folder", reason="EXISTS")
    folder.mkdir(parents=True)
    images = _build_images(options, version, folder, say)
    built = {name: digest for name, (digest, _) in images.items()}
    _write_components(folder, version, images, source.time)
    say("packaging the chart")
    inputs = ChartInputs(
        CHART,
        {**options.digests, **built},
        options.registry,
        options.home,
        changes,
        evidence_of(folder, key),
    )
    chart = package_chart(inputs, options.helm, folder)
    archive = folder / f"{chart.stem}-oci.tar"
    reference = _reference(options.registry, "charts/thumbwheel", version)
    manifests = {
        **{f"thumbwheel-{name}": digest for name, digest in built.items()},
        "chart": write_chart_archive(chart, reference, archive),
    }
    _write_images_list(folder, inputs, version, say)
    # After all other files, which are its subjects.
    subjects = {
        str(path.relative_to(folder)): file_digest(path)
        for path in folder.rglob("*")
        if path.is_file()
    } | {name: digest.removeprefix("sha256:") for name, digest in manifests.items()}
    catalogue = read_catalogue()
    locks = [lock for name in options.images for lock in locks_of(catalogue.images[name])]
    parameters = {"images": [*options.images], "registry": options.registry}
    provenance = statement(subjects, source, [*locks, *TOOLS], parameters, run, ROOT)
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    sums = write_sums(folder)
    if key:
        sign(sums, key)
        say(f"signed: {sums}")
    return folder


def evidence_of(folder: Path, key: EllipticCurvePrivateKey | None) -> dict[str, str]:
    """Return the SBOM of the release and the key of its signature, by name, with their digests.

    They are annotations of the chart, so that its users can find and compare them.
    """
    bom = f"sbom/release.cdx.json sha256:{file_digest(folder / 'sbom' / 'release.cdx.json')}"
    if key is None:
        return {"sbom": bom}
    digest = hashlib.sha256(public_pem(key)).hexdigest()
    return {"sbom": bom, "signature-key": f"{PUBLIC_KEY} sha256:{digest}"}


def _version() -> str:
    """Return the version of the chart; chart, application and pyproject.toml must agree."""
    metadata = chart_metadata(CHART)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        str(each) for each in (metadata["version"], metadata["appVersion"], project["version"])
    }
    if len(found) != 1:
        raise ReleaseError(
            f"versions of Chart.yaml (version, appVersion) and pyproject.toml differ: "
            f"{', '.join(sorted(found))}",
            field="version",
        )
    return found.pop()


def _reference(registry: str, name: str, version: str) -> str:
    return f"{registry or 'localhost'}/{name}:{version}"


def _build_images(options: Options, version: str, folder: Path, say: Say) -> Images:
    """Write the archives of the images and return their digests and components by name.

    Raises:
        ReleaseError: the licence of a component is unknown or needs a reason.
    """
    catalogue, policy = read_catalogue(), read_policy()
    (folder / "images").mkdir()
    built: Images = {}
    for name in options.images:
        say(f"building the image {name}")
        with built_image(catalogue.images[name], catalogue, say) as image:
            reference = _reference(options.registry, f"thumbwheel-{name}", version)
            write_archive(folder / "images" / f"thumbwheel-{name}.tar", reference, image)
            layers = [layer.blob.path for layer in image.layers]
            components = components_of(catalogue.images[name], layers, policy)
            built[name] = (image.digest, components)
    found = {each for _, components in built.values() for each in components}
    require_licences(sorted(found), policy)
    return built


def require_licences(components: Sequence[Component], policy: Policy) -> None:
    """Check the licences of components.

    Raises:
        ReleaseError: lists all components without a known or an accepted licence.
    """
    refusals = [policy.refusal(each.kind, each.name, each.licence) for each in components]
    if refused := [text for text in refusals if text]:
        raise ReleaseError(
            "infra/release/licences.toml: " + "; ".join(refused), field="licences", reason="REFUSED"
        )


def _write_components(folder: Path, version: str, images: Images, time: datetime.datetime) -> None:
    """Write an SBOM for each image, one for the release, and the report of licences."""
    (folder / "sbom").mkdir()
    boms = {
        name: image_bom(f"thumbwheel-{name}", version, digest, components, time)
        for name, (digest, components) in images.items()
    }
    named = {f"thumbwheel-{name}": found for name, found in images.items()}
    boms["release"] = release_bom(version, named, time)
    for name, text in boms.items():
        (folder / "sbom" / f"{name}.cdx.json").write_text(text)
    users: dict[tuple[str, str, str, str], list[str]] = {}
    for name, (_, components) in images.items():
        for each in components:
            users.setdefault((each.kind, each.name, each.version, each.licence), []).append(name)
    rows = [(*row, ", ".join(names)) for row, names in sorted(users.items())]
    (folder / "THIRD_PARTY.md").write_text(report(rows, read_policy()))


def _write_images_list(folder: Path, inputs: ChartInputs, version: str, say: Say) -> None:
    """Write images.txt, a line of reference and tag for each image of the packaged chart."""
    text = (inputs.folder / "values.yaml").read_text()
    values = values_of_release(text, inputs.digests, inputs.registry)
    references = image_references(yaml.safe_load(values), version)
    if unpinned := [reference for reference, _ in references.values() if "@" not in reference]:
        say(f"without a digest: {', '.join(unpinned)}; --digest NAME=sha256:… adds one")
    lines = [f"{reference} {tag}\n" for reference, tag in references.values()]
    (folder / "images.txt").write_text("".join(lines))
