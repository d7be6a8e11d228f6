"""What the operator is made of: one program, its custom resource definitions and its role, all from
its Go module; in the cache.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.cluster.errors import ClusterError
from infra.cluster.programs import Family, build, build_caches, forget_build_caches, refuse_unable
from infra.images.program import write_program_image
from infra.servers.installation import LOCKS, Part, fill_missing, refuse_missing

MODULE = "github.com/ray-project/kuberay/ray-operator"
KUBERAY = Family("kuberay", None, LOCKS / "cluster" / "kuberay", MODULE)
REFERENCE = "localhost/kuberay:1"
COMMAND = "make deploy TRAINING=kuberay"


@dataclass(frozen=True)
class Operator:
    """Where it is, whether it is there or not."""

    home: Path

    @property
    def archive(self) -> Path:
        return self.home / "kuberay.tar"

    @property
    def definitions(self) -> Path:
        """A folder of CustomResourceDefinitions."""
        return self.home / "definitions"

    @property
    def role(self) -> Path:
        """The ClusterRole that it needs, in each namespace that it watches."""
        return self.home / "role.yaml"


def find_installed() -> Operator:
    """Ready to use. Raises: ServerError: it is not there, with the command that installs it."""
    refuse_missing([_part()], COMMAND)
    return Operator(KUBERAY.home)


def install(say: Callable[[str], None]) -> Operator:
    """Build it if it is not there. Raises: ServerError, ClusterError: something cannot be had here,
    with what to do.
    """
    if not KUBERAY.home.exists():
        refuse_unable()
        fill_missing([_part()], say)
        forget_build_caches()
    return Operator(KUBERAY.home)


def version() -> str:
    """The module's, as the lock has it."""
    found = re.search(
        rf"^\t{re.escape(MODULE)} (v\S+)", (KUBERAY.lock / "go.mod").read_text(), re.MULTILINE
    )
    if found is None:
        raise ClusterError(
            f"{KUBERAY.lock / 'go.mod'} names no {MODULE}", field=MODULE, reason="MISSING"
        )
    return found[1]


def _part() -> Part:
    return KUBERAY.part(
        "KubeRay's operator, built from its Go modules (two or three minutes)", _fill
    )


def _fill(folder: Path) -> None:
    build(KUBERAY, folder)
    operator = Operator(folder)
    write_program_image(folder / "kuberay", REFERENCE, operator.archive)
    (folder / "kuberay").unlink()
    sources = build_caches() / "modules" / f"{MODULE}@{version()}" / "config"
    shutil.copytree(sources / "crd" / "bases", operator.definitions)
    shutil.copyfile(sources / "rbac" / "role.yaml", operator.role)
