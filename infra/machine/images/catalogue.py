"""Catalogue of images, read from `images.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.service_table import service_table

ROOT = Path(__file__).resolve().parents[3]
LIST = Path(__file__).with_name("images.toml")
EVERY_SERVICE = "services/*"


@dataclass(frozen=True)
class Image:
    """An image: packages of locks, code in `paths`, system programs and the default module.

    Args:
        scripts: console scripts of packages by name, as `module:function`.
        without: patterns of omitted files, in place of the catalogue's.
        jars: folder with the pom.xml and the expected jars.sha256.
    """

    name: str
    about: str
    locks: Sequence[Path]
    paths: Sequence[Path]
    module: str
    programs: Sequence[str] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    jars: Path | None = None


@dataclass(frozen=True)
class Catalogue:
    """All images.

    Args:
        python: base image of the Containerfile.
        maven: image with Maven in the Containerfile.
        without: patterns of files omitted from packages, relative to the folder of the
            installation.
    """

    images: Mapping[str, Image]
    python: str
    maven: str
    without: Sequence[str]

    def omitted_patterns(self, image: Image) -> Sequence[str]:
        """Return the patterns of files omitted from the packages of this image."""
        return image.without or self.without


def read_catalogue(text: str | None = None) -> Catalogue:
    """Parse the catalogue. Tests pass other TOML text.

    The path `services/*` represents the folders of all services with a gRPC server.
    """
    services = sorted(Path("services", service.name) for service in service_table().grpc)
    table = tomllib.loads(LIST.read_text() if text is None else text)
    python, maven, without = table.pop("python"), table.pop("maven"), table.pop("without")
    images = {
        name: Image(
            name,
            entry["about"],
            [Path(lock) for lock in entry["locks"]],
            [
                path
                for listed in entry["paths"]
                for path in (services if listed == EVERY_SERVICE else [Path(listed)])
            ],
            entry["module"],
            entry.get("programs", ()),
            entry.get("scripts", {}),
            entry.get("without", ()),
            Path(entry["jars"]) if "jars" in entry else None,
        )
        for name, entry in table.items()
    }
    return Catalogue(images, python, maven, without)
