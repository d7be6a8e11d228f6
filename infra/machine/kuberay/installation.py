"""Installation of the KubeRay operator in the cache: program, resource definitions and role.

All of them come from the operator's Go module. In a cluster the operator has a namespace, its
rights and a single pod. The operator's role is a ClusterRole. A RoleBinding restricts the role to
the namespace under watch.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.programs import (
    GoProgram,
    build,
    build_caches,
    check_disk_space,
    remove_build_caches,
)
from infra.machine.images.archive import write_program_image
from infra.machine.servers.installation import LOCKS, Part, install_missing, require_installed

MODULE = "github.com/ray-project/kuberay/ray-operator"
KUBERAY = GoProgram("kuberay", None, LOCKS / "cluster" / "kuberay", MODULE)
REFERENCE = "localhost/kuberay:1"
COMMAND = "make deploy TRAINING=kuberay"


@dataclass(frozen=True)
class Operator:
    """Paths of the operator, installed or not."""

    home: Path

    @property
    def archive(self) -> Path:
        return self.home / "kuberay.tar"

    @property
    def definitions(self) -> Path:
        """Folder with the CustomResourceDefinitions."""
        return self.home / "definitions"

    @property
    def role(self) -> Path:
        """ClusterRole that the operator needs in each namespace under its watch."""
        return self.home / "role.yaml"


def find_installed() -> Operator:
    """Return the installed operator.

    Raises:
        ServerError: the operator is missing; names the command for the installation.
    """
    require_installed([_part()], COMMAND)
    return Operator(KUBERAY.home)


def install(say: Callable[[str], None]) -> Operator:
    """Build the operator if missing.

    Raises:
        ServerError, ClusterError: a build requirement is missing; the message contains the remedy.
    """
    if not KUBERAY.home.exists():
        check_disk_space()
        install_missing([_part()], say)
        remove_build_caches()
    return Operator(KUBERAY.home)


def version() -> str:
    """Return the version of the module in the lock."""
    found = re.search(
        rf"^\t{re.escape(MODULE)} (v\S+)", (KUBERAY.lock / "go.mod").read_text(), re.MULTILINE
    )
    if found is None:
        raise ClusterError(
            f"{KUBERAY.lock / 'go.mod'} does not list {MODULE}", field=MODULE, reason="MISSING"
        )
    return found[1]


def _part() -> Part:
    return KUBERAY.part("KubeRay operator, built from its Go modules (two or three minutes)", _fill)


def _fill(folder: Path) -> None:
    build(KUBERAY, folder)
    operator = Operator(folder)
    write_program_image(folder / "kuberay", REFERENCE, operator.archive)
    (folder / "kuberay").unlink()
    sources = build_caches() / "modules" / f"{MODULE}@{version()}" / "config"
    shutil.copytree(sources / "crd" / "bases", operator.definitions)
    shutil.copyfile(sources / "rbac" / "role.yaml", operator.role)


NAMESPACE = NAME = "kuberay-system"
ROLE = "kuberay-operator"
HEALTH = {"httpGet": {"path": "/metrics", "port": 8080}}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def operator_objects(watched: str) -> str:
    """Return all objects for kubectl.

    Args:
        watched: the namespace whose RayJobs the operator runs.
    """
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    items = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": NAME, "namespace": watched},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": ROLE,
            },
            "subjects": [account],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {"app.kubernetes.io/name": ROLE}},
                "template": {
                    "metadata": {"labels": {"app.kubernetes.io/name": ROLE}},
                    "spec": {"serviceAccountName": NAME, "containers": [_container(watched)]},
                },
            },
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _container(watched: str) -> dict[str, object]:
    """Return the container. A single replica needs no leader election."""
    return {
        "name": "operator",
        "image": REFERENCE,
        "imagePullPolicy": "Never",
        "args": [
            "--enable-leader-election=false",
            f"--watch-namespace={watched}",
            "--metrics-addr=:8080",
            "--health-probe-bind-address=:8082",
        ],
        "readinessProbe": {**HEALTH, "periodSeconds": 1},
        "livenessProbe": {**HEALTH, "periodSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": SECURITY,
    }
