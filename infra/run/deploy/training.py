"""Training on the local cluster: the KubeRay operator and a volume with the packages.

Other clusters take the packages, six gigabytes, from the training image. Here a volume over .venv
provides them, because loading the whole image into each new cluster takes minutes. The `--whole`
option loads the image nevertheless.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from infra.install.definitions.in_cluster import apply_definitions
from infra.machine.cluster.node import import_command
from infra.machine.kuberay.installation import NAME, NAMESPACE, Operator, operator_objects
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.storage import READ_ONLY, volume_of

PACKAGES, PLACE = "packages", "/site-packages"
# Small enough for a node with two processors that runs everything else as well.
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "5Gi"}}
OPERATOR_SECONDS = 60


class RayMode(StrEnum):
    """Values of the chart's `ray.mode`, without `auto`."""

    KUBERAY = "kuberay"
    JOB = "job"
    LOCAL = "local"


def chart_values(mode: RayMode, *, whole: bool = False) -> dict[str, object]:
    """Return chart values for manual runs of the nano recipe.

    Args:
        whole: True if the image contains the packages; otherwise the packages come from a volume.
    """
    return {
        "training": {
            "enabled": True,
            "recipe": "nano",
            "suspend": True,
            "resources": RESOURCES,
            # A handful of simulated users: the first steps would contain none of them.
            "canary": {"steps": ""},
            **({} if whole else mounted_packages()),
        },
        "ray": {
            "mode": str(mode),
            "head": {"resources": RESOURCES},
            "workers": {"resources": RESOURCES},
        },
    }


def mounted_packages() -> dict[str, list[dict[str, object]]]:
    """Return values of a pod that mounts the packages of its image."""
    return {
        "extraVolumes": [
            {"name": PACKAGES, "persistentVolumeClaim": {"claimName": PACKAGES, "readOnly": True}}
        ],
        "extraVolumeMounts": [{"name": PACKAGES, "mountPath": PLACE, "readOnly": True}],
        "extraEnv": [{"name": "PYTHONPATH", "value": f"{PLACE}:/app:/app/gen"}],
    }


def prepare_packages(shell: ClusterShell, namespace: str) -> None:
    """Compile the packages and create their volume and claim.

    Pods mount the volume read-only and could not store bytecode.
    """
    site = Path(sysconfig.get_path("purelib"))
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", str(site)],
        check=False,
        stdout=subprocess.DEVNULL,
    )
    volume = volume_of(site, PACKAGES, namespace, READ_ONLY)
    shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=volume)


def install_operator(
    shell: ClusterShell, operator: Operator, namespace: str, say: Callable[[str], None]
) -> None:
    """Install the KubeRay operator and wait until its rollout is complete."""
    say("installing the KubeRay operator")
    shell.run(*import_command(operator.archive))
    apply_definitions(shell, operator.definitions)
    shell.run("kubectl", "apply", "--server-side", "-f", str(operator.role))
    shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=operator_objects(namespace))
    where = ["--namespace", NAMESPACE, f"deployment/{NAME}", f"--timeout={OPERATOR_SECONDS}s"]
    shell.run("kubectl", "rollout", "status", *where)
