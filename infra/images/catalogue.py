"""The list of images, `images.toml`: what each holds, by paths of the clone."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("images.toml")


@dataclass(frozen=True)
class Image:
    """One image: packages of a lock, our code in `paths`, programs of the system, and the module
    that runs by default.

    Args:
        scripts: commands of packages by name, as `module:function`.
        without: instead of the catalogue's.
        jars: the folder of a pom.xml and of jars.sha256, what it must bring.
    """

    name: str
    about: str
    lock: Path
    paths: Sequence[Path]
    module: str
    programs: Sequence[str] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    jars: Path | None = None


@dataclass(frozen=True)
class Catalogue:
    """All images. `python` and `maven`: what the Containerfile builds on; `without`: patterns of
    what is left out of packages, relative to the folder that they are installed in.
    """

    images: Mapping[str, Image]
    python: str
    maven: str
    without: Sequence[str]

    def left_out(self, image: Image) -> Sequence[str]:
        """Of the packages of this image."""
        return image.without or self.without


def read_catalogue(text: str | None = None) -> Catalogue:
    """What the list says; of other TOML in a test."""
    said = tomllib.loads(LIST.read_text() if text is None else text)
    python, maven, without = said.pop("python"), said.pop("maven"), said.pop("without")
    images = {
        name: Image(
            name,
            entry["about"],
            Path(entry["lock"]),
            [Path(path) for path in entry["paths"]],
            entry["module"],
            entry.get("programs", ()),
            entry.get("scripts", {}),
            entry.get("without", ()),
            Path(entry["jars"]) if "jars" in entry else None,
        )
        for name, entry in said.items()
    }
    return Catalogue(images, python, maven, without)
