"""Models that Jobs of the chart import, in pods that download them from the object store.

KServe is simulated, with an init container in place of its storage initializer.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from infra.install.environment import ROOT
from infra.run.deploy import release
from infra.run.deploy.release import load_images
from infra.run.deploy.storage import READ_ONLY, volume_of
from infra.run.deploy.training import mounted_packages, prepare_packages
from tests.infra.run.deploy.clusters import empty_cluster
from tests.infra.simulate.kserve.served import NAMESPACE, World, empty_release, pods_of, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]
STORE, SECRET = "s3://thumbwheel/models", "s3-of-kserve"
SOURCE, PLACE = "published", "/published"
ANSWER_SECONDS, JOB_SECONDS = 180.0, 300.0
FAILED = ["FAILED_PRECONDITION", "VERSION_FAILED", "directory"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Release whose first version comes from a folder; versions are in the object store."""
    state = tmp_path_factory.mktemp("stored") / "cluster"
    with (
        empty_cluster(state, "imported models are not served on a real cluster") as shell,
        empty_release(shell, ["training"]) as found,
    ):
        prepare_packages(shell, release.NAMESPACE)
        published = volume_of(ROOT / "models" / "nano", SOURCE, release.NAMESPACE, READ_ONLY)
        shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=published)
        found.change(
            {
                "models": {
                    "store": STORE,
                    # The tiny model states no licence, as Llama's own.
                    "acceptTerms": "llama",
                    "import": {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}},
                },
                "serving": {"kserve": {"storageSecret": SECRET}},
                "services": {"generator": {"settings": {"load_seconds": 120, "watch_share": 0}}},
            }
        )
        import_model(found, "imported-1", PLACE)
        write_secret(found)
        yield found


def import_model(world: World, version: str, source: str) -> None:
    """Install or upgrade with another first version, and wait until its Job is complete."""
    imported: dict[str, Any] = {"source": source, **mounted_packages()}
    if source == PLACE:
        claim = {"claimName": SOURCE, "readOnly": True}
        imported["extraVolumes"].append({"name": SOURCE, "persistentVolumeClaim": claim})
        imported["extraVolumeMounts"].append({"name": SOURCE, "mountPath": PLACE})
    world.change({"models": {"initial": version, "import": imported}})
    world.install()
    selector = f"--selector=app.kubernetes.io/instance={release.NAME}"
    words = ["wait", "job", selector, "--for=condition=Complete", f"--timeout={JOB_SECONDS:.0f}s"]
    world.shell.run("kubectl", *NAMESPACE, *words)


def write_secret(world: World) -> None:
    """Create the secret for KServe with the keys of the evaluation's store (docs/kubernetes.md).

    KServe reads it once for each Deployment, so keys and annotations come together.
    """
    (store,) = (
        item
        for item in world.get("services")["items"]
        if item["metadata"]["name"] == f"{release.NAME}-s3"
    )
    keys = world.get("secret", f"{release.NAME}-evaluation")["data"]
    endpoint = f"{release.NAME}-s3:{store['spec']['ports'][0]['port']}"
    annotations = {"s3-endpoint": endpoint, "s3-usehttps": "0"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET,
            "annotations": {f"serving.kserve.io/{key}": text for key, text in annotations.items()},
        },
        "data": {
            "AWS_ACCESS_KEY_ID": keys["access-key"],
            "AWS_SECRET_ACCESS_KEY": keys["secret-key"],
        },
    }
    world.shell.run("kubectl", *NAMESPACE, "apply", "-f", "-", stdin=json.dumps(secret))


def test_imported_model_is_downloaded_and_answers(world: World) -> None:
    until(lambda: world.chat()[0] == 200, ANSWER_SECONDS)
    ((version, service),) = world.services().items()
    assert version == "imported-1"
    assert service["spec"]["predictor"]["model"]["storageUri"] == f"{STORE}/imported-1"
    (pod,) = pods_of(world, service)
    (download,) = pod["status"]["initContainerStatuses"]
    assert download["state"]["terminated"]["reason"] == "Completed"
    claims = [each for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each]
    assert claims == [], "pods of versions mount no claim"
    served = manifest_of(world, pod)
    assert served["version"] == version
    assert "token_ids.json" in served["files"]


def test_model_of_the_object_store_becomes_another_version(world: World) -> None:
    """An import from the store, and a canary of it; both versions are downloaded."""
    import_model(world, "imported-2", f"{STORE}/imported-1")
    # Another initial version changes nothing that is served.
    assert set(world.services()) == {"imported-1"}
    started = world.rollout("start", "imported-2")
    assert "error" not in started, started
    assert set(world.rollout("users", "12")["versions"]) == {"imported-1", "imported-2"}
    assert "error" not in world.rollout("promote", "imported-2")
    until(lambda: set(world.services()) == {"imported-2"}, ANSWER_SECONDS)
    assert world.chat()[0] == 200


def test_version_that_is_not_in_the_store_names_the_reason(world: World) -> None:
    world.model("absent-1", "imported-2")
    started = world.rollout("start", "absent-1")
    assert started["refusal"][:3] == FAILED, started
    assert "No model found in models/absent-1" in started["error"]
    until(lambda: set(world.services()) == {"imported-2"})
    assert world.chat()[0] == 200


def test_small_model_of_its_image_answers(world: World) -> None:
    """The default model of the chart: written by its image, copied to the store, downloaded."""
    world.tags.update(load_images(world.shell, ["small"], print))
    world.change({"models": {"contextTokens": 2048, "replyTokens": 64, "acceptTerms": ""}})
    import_model(world, "small-0", "")
    started = world.rollout("start", "small-0")
    assert "error" not in started, started
    assert "error" not in world.rollout("promote", "small-0")
    until(lambda: set(world.services()) == {"small-0"}, ANSWER_SECONDS)
    body = {
        "model": "thumbwheel",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    }
    status, answer = world.client.call("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    assert "Paris" in answer["choices"][0]["message"]["content"]


def manifest_of(world: World, pod: Any) -> Any:
    """Return the manifest of the model that the pod serves."""
    read = "print(open('/mnt/models/manifest.json').read())"
    name = pod["metadata"]["name"]
    words = ["exec", name, "--container", "kserve-container", "--", "python3", "-c", read]
    return json.loads(world.shell.run("kubectl", *NAMESPACE, *words))
