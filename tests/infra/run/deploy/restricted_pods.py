"""Pods of the tests with the services' image, at the restricted Pod Security Standard."""

from collections.abc import Mapping, Sequence
from typing import Any


def restricted_spec(
    container: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the spec of a pod with this container, and the security contexts of both."""
    rights = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10_001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**container, "securityContext": rights}],
        "volumes": [*volumes],
    }
