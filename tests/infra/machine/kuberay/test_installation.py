"""The operator is built from a single module version without own sources.

The operator satisfies the restricted standard and has rights in its watched namespace only.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.programs import GoProgram
from infra.machine.kuberay import installation
from infra.machine.kuberay.installation import KUBERAY, MODULE, NAMESPACE, operator_objects, version
from tests.support.errors import refused


def test_lock_has_the_tested_version_and_all_hashes() -> None:
    assert version() == "v1.5.1"
    text, sums = ((KUBERAY.lock / name).read_text() for name in ("go.mod", "go.sum"))
    assert text.startswith("module thumbwheel/cluster/kuberay\n")
    required = re.findall(r"^\t([\w./-]+) (v\S+)", text, re.MULTILINE)
    assert len(required) > 40
    assert [module for module, at in required if f"{module} {at}/go.mod h1:" not in sums] == []


def test_built_program_is_that_of_the_module() -> None:
    assert (KUBERAY.sources, KUBERAY.package) == (None, MODULE)
    assert f"tool {MODULE}" in (KUBERAY.lock / "go.mod").read_text()


def test_lock_without_operator_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "go.mod").write_text("module other\n")
    monkeypatch.setattr(installation, "KUBERAY", GoProgram("kuberay", None, tmp_path, MODULE))
    with refused(ClusterError, field=MODULE, reason="MISSING") as caught:
        version()
    assert str(tmp_path / "go.mod") in caught.value.text


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
