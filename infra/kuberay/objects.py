"""The operator in the cluster: a namespace of its own, rights in the one namespace that it watches,
one pod.

Its role is a ClusterRole, and a RoleBinding gives of it only what lies in the binding's namespace.
"""

import json

from infra.kuberay.installation import REFERENCE

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
    """All of them, for kubectl. `watched` is the namespace whose RayJobs it runs."""
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
    """One of it, so there is nobody to elect."""
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
