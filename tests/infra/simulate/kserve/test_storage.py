"""Init container and credentials for models in object stores, as by KServe."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes.client

from infra.simulate.kserve.controller import Controller
from infra.simulate.kserve.objects import deployment_of, status_of
from infra.simulate.kserve.storage import SCRIPT, store_variables
from services.generator.kubernetes.inference_object import observe
from tests.charts.kserve_objects import service_of
from tests.infra.simulate.kserve.deployments import BEGINNING, Json, deployment, runtime
from tests.s3_server import S3Server, serving

IMAGE = "localhost/initializer:1"
VALUES = "gpu-values.yaml"
ENDPOINT = "serving.kserve.io/s3-endpoint"
KEYS = {"AWS_ACCESS_KEY_ID": "a2V5", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0"}


def stored_service() -> Json:
    sets = ("models.store=s3://thumbwheel/models", "serving.kserve.storageSecret=s3")
    found = service_of(VALUES, *sets, version="v1", folder="v1")
    metadata = found["metadata"] | {"namespace": "chat", "uid": "u-1", "generation": 1}
    return {**found, "metadata": metadata}


def named(name: str, annotations: Mapping[str, str] | None = None, **fields: Any) -> Json:
    return {"metadata": {"name": name, "annotations": dict(annotations or {})}, **fields}


def values_of(variables: list[dict[str, Any]]) -> dict[str, str]:
    return {
        each["name"]: each.get("value") or "/".join(each["valueFrom"]["secretKeyRef"].values())
        for each in variables
    }


def test_init_container_downloads_into_the_folder_that_the_server_reads() -> None:
    pod = deployment_of(stored_service(), runtime(VALUES), IMAGE)["spec"]["template"]["spec"]
    (init,), (server,) = pod["initContainers"], pod["containers"]
    assert (init["image"], init["args"]) == (IMAGE, ["s3://thumbwheel/models/v1", "/mnt/models"])
    assert init["securityContext"] == server["securityContext"]
    (target,) = init["volumeMounts"]
    (source,) = (each for each in server["volumeMounts"] if each["mountPath"] == "/mnt/models")
    assert (target["name"], target["mountPath"]) == (source["name"], source["mountPath"])
    assert source["readOnly"]
    assert not target.get("readOnly")
    assert {each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each} == set()
    assert set(pod) <= set(kubernetes.client.V1PodSpec.attribute_map.values())


def test_address_and_keys_are_those_of_the_secret() -> None:
    """Annotations of the account count only with a role of AWS."""
    of_account = {ENDPOINT: "elsewhere:1"}
    secret = named("s3", {ENDPOINT: "s3.stores:8333", f"{ENDPOINT[:17]}/s3-usehttps": "0"})
    found = store_variables(named("pods", of_account), [secret | {"data": KEYS}])
    assert values_of(found) == {
        "AWS_ACCESS_KEY_ID": "s3/AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY": "s3/AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL": "http://s3.stores:8333",
    }
    assert store_variables(named("pods", of_account), []) == []
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/models"}
    assert values_of(store_variables(named("pods", of_account | role), [])) == {
        "AWS_ENDPOINT_URL": "https://elsewhere:1"
    }


class Api:
    """API with one stored InferenceService, its service account and a secret."""

    def __init__(self) -> None:
        self.applied: list[Json] = []
        self.found = {
            "inferenceservices": {"items": [stored_service()]},
            runtime(VALUES)["metadata"]["name"]: runtime(VALUES),
            "tw-thumbwheel-model-store": named("tw-thumbwheel-model-store", secrets=[named("s3")]),
            "s3": named("s3", {ENDPOINT: "s3.stores:8333"}, data=KEYS),
            "pods": {"items": []},
        }
        self.found["tw-thumbwheel-model-store"]["secrets"] = [{"name": "s3"}]

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        return self.found.get(path.rsplit("/", 1)[1], deployment())

    async def apply(self, path: str, body: Json) -> Json:
        self.applied.append(body)
        return body

    async def merge(self, path: str, body: Json) -> Json:
        return body


async def test_controller_reads_the_secrets_of_the_service_account() -> None:
    api = Api()
    await Controller(api, IMAGE).reconcile_all()
    (init,) = api.applied[0]["spec"]["template"]["spec"]["initContainers"]
    assert init["image"] == IMAGE
    assert values_of(init["env"])["AWS_ENDPOINT_URL"] == "https://s3.stores:8333"


def test_failed_download_is_a_failed_load() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": "No model found in v1."}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    containers = {
        "initContainerStatuses": [{"name": "storage-initializer", "state": ended}],
        "containerStatuses": [{"name": "kserve-container", "state": waiting}],
    }
    service = stored_service()
    found = {"status": status_of(service, BEGINNING, [{"status": containers}])}
    assert observe(service | found, 0).failure == "ModelLoadFailed: No model found in v1."
    containers["initContainerStatuses"][0]["state"] = {"running": {}}
    found = {"status": status_of(service, BEGINNING, [{"status": containers}])}
    assert observe(service | found, 0).failure == ""


def test_objects_of_a_version_are_downloaded(tmp_path: Path) -> None:
    store = S3Server()
    store.buckets["team"] = {"models/v1/config.json": b"{}", "models/v1/empty": b""}
    store.buckets["team"]["models/v2/config.json"] = b"[]"
    with serving(store) as port:
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

        def download(version: str) -> subprocess.CompletedProcess[str]:
            source = f"s3://team/models/{version}"
            return subprocess.run(
                [sys.executable, "-c", SCRIPT, source, str(tmp_path / version)],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )

        assert download("v1").returncode == 0
        missing = download("v3")
    assert {path.name for path in (tmp_path / "v1").iterdir()} == {"config.json"}
    assert missing.returncode == 1
    assert "models/v3" in missing.stderr
