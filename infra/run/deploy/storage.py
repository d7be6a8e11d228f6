"""Namespace and persistent volumes.

The cluster has no dynamic provisioner, so a fixed number of local volumes is created.
"""

import json
from pathlib import Path

from infra.machine.cluster.layout import NODE, Layout

VOLUMES = 60
READ_ONLY, SHARED = "ReadOnlyMany", "ReadWriteMany"
CLASS = "local"
RESTRICTED = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
}


def prepare_storage(layout: Layout, namespace: str) -> str:
    """Return the objects for kubectl, and create the folders of the volumes."""
    items: list[dict[str, object]] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": RESTRICTED},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    ]
    for number in range(VOLUMES):
        folder = layout.data / "volumes" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        items.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"local-{number}"},
                "spec": {
                    "storageClassName": CLASS,
                    "capacity": {"storage": "20Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    **_on_node(folder),
                },
            }
        )
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def volume_of(folder: Path, name: str, namespace: str, mode: str) -> str:
    """Return a volume over a folder of this machine and its claim, for kubectl.

    Args:
        name: of the volume and of the claim.
        mode: READ_ONLY or SHARED; many pods may mount the volume.
    """
    size = {"storage": "20Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "",
            "capacity": size,
            "accessModes": [mode],
            "claimRef": {"namespace": namespace, "name": name},
            "persistentVolumeReclaimPolicy": "Retain",
            **_on_node(folder),
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "storageClassName": "",
            "volumeName": name,
            "accessModes": [mode],
            "resources": {"requests": size},
        },
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [volume, claim]})


def _on_node(folder: Path) -> dict[str, object]:
    """Return the fields of a volume's spec that name a folder of the node."""
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    terms = [{"matchExpressions": [on_node]}]
    return {
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
    }
