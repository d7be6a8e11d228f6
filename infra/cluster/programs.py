"""Programs built from Go modules, each family from its own go.mod and go.sum, so that versions of
one never decide another's.

The sources in go/ are a page each; all the rest comes through Go's own module proxy and is checked
against go.sum.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.cluster.errors import ClusterError
from infra.install.environment import cache
from infra.servers.go import find_go
from infra.servers.installation import LOCKS, Part, home
from infra.servers.steps import run_steps

SOURCES = Path(__file__).parent / "go"
BUILD_SECONDS = 3600.0
# Measured: 1.0 GB of modules and 3.6 of Go's build cache, and what the linker puts beside them.
NEEDED_BYTES = 6_000_000_000
NICENESS = "15"
# What a module of Kubernetes reports as its version where nobody sets it makes Helm's checks of
# versions wrong.
KUBERNETES = re.compile(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.\S+")
STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


@dataclass(frozen=True)
class Family:
    """One main package. `lock` holds go.mod and go.sum, `sources` main.go; without sources of ours
    it is the `package` of a module that the lock names.
    """

    name: str
    sources: Path | None
    lock: Path
    package: str = "."

    @property
    def home(self) -> Path:
        """Where its program is put."""
        ours = [self.sources / "main.go"] if self.sources else []
        return home("cluster", self.name, *ours, self.lock / "go.mod", self.lock / "go.sum")

    @property
    def program(self) -> Path:
        return self.home / self.name

    def part(self, what: str, fill: Callable[[Path], None]) -> Part:
        return Part(self.home, what, fill, arrives=None)


def ours(name: str) -> Family:
    """A family of the cluster's own."""
    return Family(name, SOURCES / name, LOCKS / "cluster" / name)


def build(family: Family, folder: Path) -> None:
    """Build it into the folder, out of the way of whoever else uses the machine.

    Raises: ServerError: the build failed, with the last of what it said.
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
    (build_caches() / "temporary").mkdir(parents=True, exist_ok=True)  # Go does not make this one
    run_steps(f"building {family.name}", [["env", *assignments, *command]], module, BUILD_SECONDS)
    shutil.rmtree(module)


def refuse_unable() -> None:
    """Before minutes are spent. Raises: ClusterError: too little room on the disk."""
    cache().mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(cache()).free) < NEEDED_BYTES:
        raise ClusterError(
            f"building Kubernetes takes {NEEDED_BYTES / 1e9:.0f} GB in {cache()}, of which 0.4 stay; {free / 1e9:.1f} are free",
            field=str(cache()),
            reason="TOO_SMALL",
            limit=f"at least {NEEDED_BYTES / 1e9:.0f} GB",
        )


def build_caches() -> Path:
    """Where modules and compiled packages lie until everything is built."""
    return cache() / "cluster" / "go"


def environment() -> dict[str, str]:
    """Nothing of the user's own Go is touched, and modules can be deleted like other files."""
    caches = build_caches()
    return {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": str(caches / "modules"),
        "GOCACHE": str(caches / "build"),
        "GOTMPDIR": str(caches / "temporary"),
    }


def linker_flags(go_mod: str) -> str:
    """No symbols; and Kubernetes learns its own version, which go.mod names."""
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


def forget_build_caches() -> None:
    """Gigabytes that only another build would want."""
    shutil.rmtree(build_caches(), ignore_errors=True)
