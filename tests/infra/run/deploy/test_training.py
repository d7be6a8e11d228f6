"""Training pods mount the packages of .venv read-only."""

import json
from pathlib import Path
from typing import Any

from infra.run.deploy.storage import READ_ONLY, volume_of
from infra.run.deploy.training import PACKAGES, RayMode, chart_values


def objects() -> dict[str, dict[str, Any]]:
    text = volume_of(Path("/venv/site-packages"), PACKAGES, "chat", READ_ONLY)
    return {item["kind"]: item for item in json.loads(text)["items"]}


def test_claim_and_volume_are_bound_to_each_other() -> None:
    volume, claim = objects()["PersistentVolume"], objects()["PersistentVolumeClaim"]
    assert volume["spec"]["local"] == {"path": "/venv/site-packages"}
    assert volume["spec"]["claimRef"] == {"namespace": "chat", "name": PACKAGES}
    assert (claim["spec"]["volumeName"], claim["metadata"]["namespace"]) == (
        volume["metadata"]["name"],
        "chat",
    )
    assert volume["spec"]["accessModes"] == claim["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_pods_mount_packages_read_only_on_pythonpath() -> None:
    values: dict[str, Any] = chart_values(RayMode.KUBERAY)
    (mount,), (volume,) = (
        values["training"]["extraVolumeMounts"],
        values["training"]["extraVolumes"],
    )
    assert mount["readOnly"]
    assert volume["persistentVolumeClaim"]["readOnly"]
    assert values["training"]["extraEnv"][0]["value"].split(":")[0] == mount["mountPath"]
    assert values["ray"]["mode"] == "kuberay"
