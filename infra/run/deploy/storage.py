"""Namespace and persistent volumes.

The cluster has no dynamic provisioner, so a fixed number of local volumes is created.
"""

import json

from infra.machine.cluster.layout import NODE, Layout

VOLUMES = 30
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
        on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
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
                    "local": {"path": str(folder)},
                    "nodeAffinity": {
                        "required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}
                    },
                },
            }
        )
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
