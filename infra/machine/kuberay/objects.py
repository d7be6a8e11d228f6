"""Kubernetes objects of the operator: its namespace, its rights and a single pod.

The operator's role is a ClusterRole. A RoleBinding restricts the role to the namespace under watch.
"""

import json

from infra.machine.kuberay.installation import REFERENCE

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
