"""The operator satisfies the restricted standard and has rights in its watched namespace only."""

import json
from typing import Any

from infra.machine.kuberay.objects import NAMESPACE, operator_objects


def objects(kind: str) -> list[dict[str, Any]]:
    return [item for item in json.loads(operator_objects("chat"))["items"] if item["kind"] == kind]


def test_operator_rights_are_limited_to_watched_namespace() -> None:
    (binding,) = objects("RoleBinding")
    assert binding["metadata"]["namespace"] == "chat"
    assert binding["subjects"][0]["namespace"] == NAMESPACE
    assert objects("ClusterRoleBinding") == []
    (deployment,) = objects("Deployment")
    assert (
        "--watch-namespace=chat" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    )


def test_operator_pod_is_unprivileged_and_read_only() -> None:
    (container,) = objects("Deployment")[0]["spec"]["template"]["spec"]["containers"]
    security = container["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
    assert security["capabilities"] == {"drop": ["ALL"]}
