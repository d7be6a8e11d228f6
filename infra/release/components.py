"""Third-party components of an image, read from its layers.

Python packages are found by their metadata and get the digests of the locks; jars and libraries get
their own digest. Libraries were copied from this machine: dpkg names their Debian package if the
bytes are still equal.
"""

import base64
import email
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from infra.machine.images.build import BUBBLEWRAP, JARS, SITE
from infra.machine.images.catalogue import ROOT, Image
from infra.machine.servers.installation import bubblewrap_version
from infra.release.errors import ReleaseError
from infra.release.licences import Policy, licence_of_package

METADATA = re.compile(rf"{SITE.lstrip('/')}/[^/]+\.dist-info/METADATA")
JAR = re.compile(rf"{JARS.lstrip('/')}/(.+?)-(\d[^/]*)\.jar")
SYSTEM = re.compile(r"(?:lib|lib64|usr/bin)/.+")
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+).*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
PAGE, PAGE_LOCK = Path("services/web/dist"), ROOT / "services" / "web" / "package-lock.json"


@dataclass(frozen=True, order=True)
class Component:
    """A third-party component.

    Args:
        kind: python, deb, jar, npm or file.
        licence: SPDX expression; empty if it is unknown.
        digests: hexadecimal SHA-256, of npm packages SHA-512: of the file, or of all files that a
            lock accepts for this version of a package. A Debian package has those of its copied
            files.
    """

    kind: str
    name: str
    version: str
    licence: str
    digests: tuple[str, ...] = ()


def components_of(image: Image, layers: Iterable[Path], policy: Policy) -> list[Component]:
    """Return the components of an image, sorted.

    Args:
        layers: gzipped tars.

    Raises:
        ReleaseError: a package is in no lock of the image.
    """
    locked = locked_digests(ROOT / lock for lock in image.locks)
    found = {_interpreter(policy)}
    for layer in layers:
        with tarfile.open(layer, "r|gz") as tar:
            for member in tar:
                if member.isfile() and (content := tar.extractfile(member)):
                    found.update(_component(member.name, content.read, locked, policy))
    if PAGE in image.paths:
        found.update(npm_components(json.loads(PAGE_LOCK.read_text()), policy))
    return merged(found)


def merged(components: Iterable[Component]) -> list[Component]:
    """Return the components sorted, one for each package: its files are joined."""
    files: dict[Component, set[str]] = {}
    for each in components:
        files.setdefault(replace(each, digests=()), set()).update(each.digests)
    return sorted(replace(each, digests=tuple(sorted(found))) for each, found in files.items())


def locked_digests(locks: Iterable[Path]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the accepted SHA-256 digests by normalized name and version."""
    return {
        (normalized(match[1]), match[2]): tuple(re.findall(r"sha256:([0-9a-f]{64})", match[0]))
        for lock in locks
        for match in LOCKED.finditer(lock.read_text())
    }


def normalized(name: str) -> str:
    """Return the normalized name of a Python package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def package_component(
    text: bytes, locked: Mapping[tuple[str, str], tuple[str, ...]], policy: Policy
) -> Component:
    """Return the component of a METADATA file.

    Raises:
        ReleaseError: no lock has this version of the package.
    """
    metadata = email.message_from_string(text.decode("utf-8", "replace"))
    name, version = normalized(metadata["Name"]), metadata["Version"]
    if (name, version) not in locked:
        raise ReleaseError(
            f"the image contains {name} {version}, which is in no lock of the image",
            field=name,
            reason="NOT_LOCKED",
        )
    licence = licence_of_package(metadata, policy, name)
    return Component("python", name, version, licence, locked[name, version])


def npm_components(
    lock: Mapping[str, Mapping[str, Mapping[str, str]]], policy: Policy
) -> set[Component]:
    """Return the packages that the built page can contain: all except tools."""
    found = set()
    for path, entry in lock["packages"].items():
        # Packages of types contain no code.
        if path and not entry.get("dev") and "/@types/" not in path:
            name = path.rpartition("node_modules/")[2]
            digest = base64.b64decode(entry["integrity"].removeprefix("sha512-")).hex()
            licence = entry.get("license") or policy.licence("npm", name)
            found.add(Component("npm", name, entry["version"], licence, (digest,)))
    return found


def _component(
    path: str,
    read: Callable[[], bytes],
    locked: Mapping[tuple[str, str], tuple[str, ...]],
    policy: Policy,
) -> Iterator[Component]:
    if METADATA.fullmatch(path):
        yield package_component(read(), locked, policy)
    elif jar := JAR.fullmatch(path):
        digest = hashlib.sha256(read()).hexdigest()
        yield Component("jar", jar[1], jar[2], policy.licence("jar", jar[1]), (digest,))
    elif SYSTEM.fullmatch(path) and not Path(path).name.startswith("libpython"):
        digest = hashlib.sha256(read()).hexdigest()
        kind, name, version = _system_package(Path("/", path), digest)
        yield Component(kind, name, version, policy.licence(kind, name), (digest,))


def _interpreter(policy: Policy) -> Component:
    version = ".".join(map(str, sys.version_info[:3]))
    return Component("file", "python", version, policy.licence("file", "python"))


@cache
def _system_package(path: Path, digest: str) -> tuple[str, str, str]:
    """Return kind, name and version of the source of a file of this machine."""
    if path.name == BUBBLEWRAP:
        return "deb", BUBBLEWRAP, bubblewrap_version()
    own = Path("/usr", str(path).lstrip("/"))
    for candidate in (path, own):
        if not candidate.exists() or hashlib.sha256(candidate.read_bytes()).hexdigest() != digest:
            continue
        for name in {
            candidate,
            candidate.resolve(),
            Path(str(candidate.resolve()).removeprefix("/usr")),
        }:
            if found := _output(["dpkg-query", "-S", str(name)]):
                package = found.splitlines()[0].rpartition(": ")[0].split(",")[0]
                form = "${source:Package} ${source:Version}"
                source, version = _output(["dpkg-query", "-W", "-f", form, package]).split()
                return "deb", source, version
    return "file", path.name, ""


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
