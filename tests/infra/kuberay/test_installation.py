"""The operator comes from one module at one version, and is built without a page of ours."""

import re
from pathlib import Path

import pytest

from infra.cluster.errors import ClusterError
from infra.cluster.programs import GoProgram
from infra.kuberay import installation
from infra.kuberay.installation import KUBERAY, MODULE, version
from tests.support.errors import refused


def test_the_lock_names_the_version_that_was_tried_and_every_module_has_its_sum() -> None:
    assert version() == "v1.5.0"
    text, sums = ((KUBERAY.lock / name).read_text() for name in ("go.mod", "go.sum"))
    assert text.startswith("module thumbwheel/cluster/kuberay\n")
    required = re.findall(r"^\t([\w./-]+) (v\S+)", text, re.MULTILINE)
    assert len(required) > 40
    assert [module for module, at in required if f"{module} {at}/go.mod h1:" not in sums] == []


def test_what_is_built_is_the_modules_own_program() -> None:
    assert (KUBERAY.sources, KUBERAY.package) == (None, MODULE)
    assert f"tool {MODULE}" in (KUBERAY.lock / "go.mod").read_text()


def test_a_lock_without_the_operator_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "go.mod").write_text("module other\n")
    monkeypatch.setattr(installation, "KUBERAY", GoProgram("kuberay", None, tmp_path, MODULE))
    with refused(ClusterError, field=MODULE, reason="MISSING") as caught:
        version()
    assert str(tmp_path / "go.mod") in caught.value.text
