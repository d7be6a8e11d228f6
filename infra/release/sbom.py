"""Software bills of materials in CycloneDX 1.6, for each image and for the release."""

import datetime
import uuid
from collections.abc import Mapping, Sequence

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as Part
from cyclonedx.model.component import ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from infra.release.components import Component

LICENSES = LicenseFactory()
# Namespace of serial numbers, which follow from the digests, so that equal images have equal files.
NAMESPACE = uuid.UUID("6f0c3e0a-6c0e-4d3e-9d62-0f1d6c2b7a55")
KINDS = {"python": ("pypi", None), "deb": ("deb", "debian"), "jar": ("generic", None)}
DIGEST_PROPERTY = "thumbwheel:file:sha256"


def image_bom(
    name: str, version: str, digest: str, components: Sequence[Component], time: datetime.datetime
) -> str:
    """Return the JSON of an image.

    Args:
        digest: digest of the manifest, as `sha256:…`.
        time: time of the commit.
    """
    root = _image(name, version, digest)
    return _written(root, {root: components}, digest, time)


def release_bom(
    version: str,
    images: Mapping[str, tuple[str, Sequence[Component]]],
    time: datetime.datetime,
) -> str:
    """Return the JSON of the release: its images, and the components of each.

    Args:
        images: digest and components by the name of the image.
    """
    root = Part(
        type=ComponentType.APPLICATION,
        name="thumbwheel",
        version=version,
        bom_ref=f"thumbwheel@{version}",
        licenses=[LICENSES.make_from_string("Apache-2.0")],
    )
    contents = {
        _image(name, version, digest): components for name, (digest, components) in images.items()
    }
    digests = ",".join(sorted(digest for digest, _ in images.values()))
    return _written(root, contents, digests, time)


def _written(
    root: Part,
    contents: Mapping[Part, Sequence[Component]],
    serial: str,
    time: datetime.datetime,
) -> str:
    """Return the JSON of `root`, which is the only image or contains all images."""
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, serial),
        metadata=BomMetaData(component=root, timestamp=time),
    )
    parts = {each: _part(each) for components in contents.values() for each in components}
    images = [image for image in contents if image is not root]
    for part in [*images, *parts.values()]:
        bom.components.add(part)
    if images:
        bom.register_dependency(root, images)
    for image, components in contents.items():
        bom.register_dependency(image, [parts[each] for each in components])
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _image(name: str, version: str, digest: str) -> Part:
    purl = PackageURL("oci", None, name, digest)
    return Part(
        type=ComponentType.CONTAINER,
        name=name,
        version=version,
        bom_ref=str(purl),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
        licenses=[LICENSES.make_from_string("Apache-2.0")],
    )


def _part(component: Component) -> Part:
    """Return a component with its digests.

    A lock accepts several files of a package, so their digests belong to its distribution; those of
    the files of a Debian package are properties, because it has no file of its own in the image.
    """
    purl = _purl(component)
    part = Part(
        type=ComponentType.LIBRARY,
        name=component.name,
        version=component.version or None,
        bom_ref=str(purl),
        purl=purl,
        licenses=[LICENSES.make_from_string(component.licence)],
    )
    algorithm = HashAlgorithm.SHA_512 if component.kind == "npm" else HashAlgorithm.SHA_256
    hashes = [HashType(alg=algorithm, content=digest) for digest in component.digests]
    if component.kind == "python":
        part.external_references.add(
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(str(purl)),
                comment="files that the lock accepts",
                hashes=hashes,
            )
        )
    elif component.kind == "deb":
        part.properties.update(
            Property(name=DIGEST_PROPERTY, value=digest) for digest in component.digests
        )
    else:
        part.hashes.update(hashes)
    return part


def _purl(component: Component) -> PackageURL:
    """Return the package URL; that of a jar has no group, which its file does not name."""
    name, space = component.name, None
    if component.kind == "npm":
        first, _, last = name.rpartition("/")
        return PackageURL("npm", first or None, last, component.version)
    kind, space = KINDS.get(component.kind, ("generic", None))
    qualifiers = {"arch": "source"} if component.kind == "deb" else None
    return PackageURL(kind, space, name, component.version or None, qualifiers)
