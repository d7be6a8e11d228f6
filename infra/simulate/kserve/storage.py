"""Download of a model from an object store, as by KServe's storage initializer.

KServe adds an init container to the pod. Its address and credentials come from the secrets that the
service account of the pod names (`pkg/credentials` of KServe): keys AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY as in KServe's default configuration, annotations for the rest. Annotations of
the account count only with a role of AWS. Not simulated: other stores, certificates, archives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from infra.machine.cluster.policies.objects import Json

SCHEME = "s3://"
CONTAINER, VOLUME = "storage-initializer", "kserve-provision-location"
MODELS = "/mnt/models"
SECRET_KEY, ACCESS_KEY = "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"
ROLE = "eks.amazonaws.com/role-arn"
PREFIX = "serving.kserve.io"
RESOURCES = {
    "requests": {"cpu": "100m", "memory": "100Mi"},
    "limits": {"cpu": "1", "memory": "1Gi"},
}
# As KServe's: the variables are boto3's, and empty objects are left out.
SCRIPT = """
import os, pathlib, sys, urllib.parse
from minio import Minio
source, folder = sys.argv[1:]
bucket, _, prefix = source.removeprefix("s3://").partition("/")
url = urllib.parse.urlsplit(os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com")
client = Minio(
    url.netloc, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"],
    secure=url.scheme == "https", region=os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
)
found = 0
for item in client.list_objects(bucket, prefix, recursive=True):
    if item.object_name.endswith("/") or not item.size:
        continue
    name = item.object_name.removeprefix(prefix).lstrip("/")
    client.fget_object(bucket, item.object_name, str(pathlib.Path(folder, name)))
    found += 1
if not found:
    sys.exit(f"Failed to fetch model. No model found in {prefix}.")
print(f"{found} objects of {source} in {folder}")
"""


def store_variables(account: Json, secrets: Sequence[Json]) -> list[dict[str, Any]]:
    """Return the variables that KServe gives the init container.

    Args:
        account: service account of the pod.
        secrets: secrets that the account names.
    """
    found: dict[str, dict[str, Any]] = {}
    annotations = account["metadata"].get("annotations") or {}
    if ROLE in annotations:
        found |= _located(annotations)
    for secret in secrets:
        if SECRET_KEY not in secret.get("data", {}):
            continue
        for key in (ACCESS_KEY, SECRET_KEY):
            reference = {"name": secret["metadata"]["name"], "key": key}
            found[key] = {"name": key, "valueFrom": {"secretKeyRef": reference}}
        found |= _located(secret["metadata"].get("annotations") or {})
    return list(found.values())


def _located(annotations: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    values = {}
    if endpoint := annotations.get(f"{PREFIX}/s3-endpoint"):
        scheme = "http" if annotations.get(f"{PREFIX}/s3-usehttps") == "0" else "https"
        values["AWS_ENDPOINT_URL"] = f"{scheme}://{endpoint}"
    if region := annotations.get(f"{PREFIX}/s3-region"):
        values["AWS_DEFAULT_REGION"] = region
    return {name: {"name": name, "value": value} for name, value in values.items()}


def init_container(uri: str, image: str, environment: Sequence[Json], user: Json) -> Json:
    """Return the init container that downloads `uri`.

    Args:
        image: image with Python and an S3 client.
        user: container of the runtime, whose security context KServe copies.
    """
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SCRIPT],
        "args": [uri, MODELS],
        "env": list(environment),
        "resources": RESOURCES,
        "securityContext": user.get("securityContext", {}),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": MODELS}],
    }
