"""Storage for the chart: a restricted namespace and volumes for claims."""

import json
from pathlib import Path

from infra.machine.cluster.layout import Layout
from infra.run.deploy.storage import VOLUMES, prepare_storage


def test_namespace_is_restricted_and_volumes_have_folders(tmp_path: Path) -> None:
    items = json.loads(prepare_storage(Layout(tmp_path), "chat"))["items"]
    namespace, storage_class, *volumes = items
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert storage_class["metadata"]["annotations"] == {
        "storageclass.kubernetes.io/is-default-class": "true"
    }
    folders = {Path(volume["spec"]["local"]["path"]) for volume in volumes}
    assert len(folders) == len(volumes) == VOLUMES
    assert all(folder.is_dir() for folder in folders)
    assert {volume["spec"]["storageClassName"] for volume in volumes} == {
        storage_class["metadata"]["name"]
    }
