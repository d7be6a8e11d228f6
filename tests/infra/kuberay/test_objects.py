"""The operator holds to the restricted standard, and has rights in the namespace that it watches
alone.
"""

import json
from typing import Any

from infra.kuberay.objects import NAMESPACE, operator_objects


def objects(kind: str) -> list[dict[str, Any]]:
    return [item for item in json.loads(operator_objects("chat"))["items"] if item["kind"] == kind]


def test_its_rights_lie_in_the_namespace_that_it_watches() -> None:
    (binding,) = objects("RoleBinding")
    assert binding["metadata"]["namespace"] == "chat"
    assert binding["subjects"][0]["namespace"] == NAMESPACE
    assert objects("ClusterRoleBinding") == []
    (deployment,) = objects("Deployment")
    assert (
        "--watch-namespace=chat" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    )


def test_its_pod_is_nobody_and_may_write_nothing() -> None:
    (container,) = objects("Deployment")[0]["spec"]["template"]["spec"]["containers"]
    security = container["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
    assert security["capabilities"] == {"drop": ["ALL"]}
