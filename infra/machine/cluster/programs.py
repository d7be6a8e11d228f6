"""Build of programs from Go modules.

Each program has its own go.mod and go.sum, so that versions are independent. The sources in go/ are
short; all dependencies come from the Go module proxy and are checked against go.sum.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.install.environment import cache
from infra.machine.cluster.errors import ClusterError
from infra.machine.servers.go import find_go
from infra.machine.servers.installation import LOCKS, Part, home
from infra.machine.servers.steps import run_steps

SOURCES = Path(__file__).parent / "go"
BUILD_SECONDS = 3600.0
# Measured: 1.0 GB of modules, 3.6 GB of Go's build cache, and temporary files of the linker.
NEEDED_BYTES = 6_000_000_000
NICENESS = "15"
# Without these flags the modules of Kubernetes report a default version, and version checks of Helm
# fail.
KUBERNETES = re.compile(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.\S+")
STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


@dataclass(frozen=True)
class GoProgram:
    """A main package.

    `lock` contains go.mod and go.sum, `sources` main.go. Without sources, the program is `package`
    of a module in the lock.
    """

    name: str
    sources: Path | None
    lock: Path
    package: str = "."

    @property
    def home(self) -> Path:
        """Return the folder of the built program."""
        cluster_program = [self.sources / "main.go"] if self.sources else []
        return home(
            "cluster", self.name, *cluster_program, self.lock / "go.mod", self.lock / "go.sum"
        )

    @property
    def program(self) -> Path:
        return self.home / self.name

    def part(self, what: str, fill: Callable[[Path], None]) -> Part:
        return Part(self.home, what, fill, download_folder=None)


def cluster_program(name: str) -> GoProgram:
    """Return a program of the cluster with its own sources."""
    return GoProgram(name, SOURCES / name, LOCKS / "cluster" / name)


def build(family: GoProgram, folder: Path) -> None:
    """Build a program into the folder with low priority.

    Raises:
        ServerError: the build failed; the message contains the end of its output.
    """
    module = folder / "module"
    if family.sources:
        shutil.copytree(family.sources, module)
    module.mkdir(exist_ok=True)
    for file in ("go.mod", "go.sum"):
        shutil.copy(family.lock / file, module)
    flags = [
        "-buildvcs=false",
        "-mod=readonly",
        "-trimpath",
        "-ldflags",
        linker_flags((module / "go.mod").read_text()),
    ]
    command = [
        "nice",
        "-n",
        NICENESS,
        str(find_go()),
        "build",
        *flags,
        "-o",
        str(folder / family.name),
        family.package,
    ]
    assignments = [f"{name}={value}" for name, value in environment().items()]
    # Go does not create this folder
    (build_caches() / "temporary").mkdir(parents=True, exist_ok=True)
    run_steps(f"building {family.name}", [["env", *assignments, *command]], module, BUILD_SECONDS)
    shutil.rmtree(module)


def check_disk_space() -> None:
    """Check the free disk space before a build of minutes.

    Raises:
        ClusterError: the disk has too little space.
    """
    cache().mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(cache()).free) < NEEDED_BYTES:
        raise ClusterError(
            f"building Kubernetes needs {NEEDED_BYTES / 1e9:.0f} GB in {cache()} (later 0.4 GB); "
            f"{free / 1e9:.1f} GB are free",
            field=str(cache()),
            reason="TOO_SMALL",
            limit=f"at least {NEEDED_BYTES / 1e9:.0f} GB",
        )


def build_caches() -> Path:
    """Return the folder of modules and compiled packages during the builds."""
    return cache() / "cluster" / "go"


def environment() -> dict[str, str]:
    """Return a Go environment separate from the user's, with deletable modules."""
    caches = build_caches()
    return {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": str(caches / "modules"),
        "GOCACHE": str(caches / "build"),
        "GOTMPDIR": str(caches / "temporary"),
    }


def linker_flags(go_mod: str) -> str:
    """Return flags that omit symbols and set the version of Kubernetes from go.mod."""
    flags = ["-s", "-w"]
    if found := KUBERNETES.search(go_mod):
        version = {
            "gitVersion": found[0].split()[1],
            "gitMajor": found[1],
            "gitMinor": found[2],
            "gitTreeState": "clean",
        }
        flags += [
            f"-X {package}.{name}={value}" for package in STAMPED for name, value in version.items()
        ]
    return " ".join(flags)


def remove_build_caches() -> None:
    """Remove gigabytes of caches that are useful for another build only."""
    shutil.rmtree(build_caches(), ignore_errors=True)
