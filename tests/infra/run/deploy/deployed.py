"""Release on the test cluster, used through the commands of operators."""

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from infra.run.deploy import release
from infra.run.deploy.__main__ import HTTP_PORT
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.port_forward import forward_port
from infra.run.deploy.release import LOADED, REPOSITORY
from infra.run.deploy.storage import RESTRICTED
from infra.service_table import service_table
from tests.journeys.client import Client

Values = Mapping[str, Any]
SERVICES = tuple(service.name for service in service_table().grpc)
STORES = ("postgres", "kafka", "s3", "valkey")
AGAIN_SECONDS = 0.5
LIST = """
import os, sys
from minio import Minio
names = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "BUCKET")
endpoint, access, secret, bucket = (os.environ["TW_FEEDBACK_S3_" + name] for name in names)
for item in Minio(endpoint, access, secret, secure=False).list_objects(
    bucket, sys.argv[1], recursive=True
):
    print(item.object_name)
"""


@dataclass(frozen=True)
class Deployed:
    """A release in a namespace."""

    shell: ClusterShell
    name: str = release.NAME
    namespace: str = release.NAMESPACE

    def kubectl(self, *words: str, stdin: str = "", seconds: float = 600) -> str:
        return self.shell.run(
            "kubectl", "--namespace", self.namespace, *words, stdin=stdin, seconds=seconds
        )

    def objects(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", *words, "-o", "json"))["items"]
        return found

    def pods(self, *components: str) -> dict[str, str]:
        """Return the uids of pods that are not being deleted, by name."""
        chosen = (
            f"app.kubernetes.io/instance={self.name},"
            f"app.kubernetes.io/component in ({', '.join(components)})"
        )
        found = self.objects("pods", "--selector", chosen)
        there = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in there}

    def python(self, component: str, *words: str, stdin: str = "") -> str:
        """Run `python3 …` in a pod of the service, with `stdin` as its standard input."""
        kind = "statefulset" if component in ("feedback", *STORES) else "deployment"
        where = [f"{kind}/{self.name}-{component}", "--container", component]
        return self.kubectl(
            "exec", *(["--stdin"] if stdin else []), *where, "--", "python3", *words, stdin=stdin
        )

    def image(self, name: str) -> str:
        loaded = json.loads((self.shell.layout.state / LOADED).read_text())
        return f"{REPOSITORY}-{name}:{loaded[name]}"

    def images(self, *names: str) -> Values:
        """Return the values that select the loaded images."""
        images = {
            name: dict(zip(("repository", "tag"), self.image(name).rsplit(":", 1), strict=True))
            for name in names
        }
        return {"images": images}

    def values(self, *changes: Values) -> Path:
        """Write the evaluation values with changes and the images of this clone to a file."""
        images = self.images("services", "predictor", "stores")
        merged = reduce(
            release.overlaid,
            [release.LOCAL_VALUES, release.WITHOUT_QUOTAS, images, *changes],
            yaml.safe_load(release.VALUES.read_text()),
        )
        file = self.shell.layout.state / f"values-{self.name}.json"
        file.write_text(json.dumps(merged))
        return file

    def install(self, *changes: Values, wait: bool = True, seconds: int = 400) -> None:
        """Install or upgrade, and wait until every pod is ready."""
        words = [
            "helm",
            "upgrade",
            "--install",
            self.name,
            str(release.CHART),
            "--namespace",
            self.namespace,
        ]
        words += [
            "--values",
            str(self.values(*changes)),
            *(["--wait", "--timeout", f"{seconds}s"] if wait else []),
        ]
        self.shell.run(*words, seconds=seconds + 60)

    def settle(self) -> None:
        """Wait until replaced pods have ended.

        `helm --wait` does not wait for them, and a gateway needs more than a minute.
        """
        selector = f"app.kubernetes.io/instance={self.name}"
        until(
            "old pods have ended",
            lambda: all(
                "deletionTimestamp" not in p["metadata"]
                for p in self.objects("pods", "--selector", selector)
            ),
        )

    def helm(self, *words: str, seconds: float = 600) -> str:
        return self.shell.run("helm", "--namespace", self.namespace, *words, seconds=seconds)

    def keys(self, user: str, count: int = 1, scopes: str = "") -> list[str]:
        """Create API keys of new users with the command of the product."""
        more = ["--scopes", scopes] if scopes else []
        words = [
            "-m",
            "services.gateway",
            "keys",
            "create",
            "--user",
            user,
            "--count",
            str(count),
            *more,
        ]
        return self.python("gateway", *words).split()[-count:]

    def person(self, key: str = "") -> Client:
        """Return a client outside the cluster, by default with the owner's key."""
        port = (self.shell.layout.state / f"{self._forwarded}-{HTTP_PORT}.port").read_text()
        return Client(
            f"http://127.0.0.1:{port}", key or (self.shell.layout.state / "owner.key").read_text()
        )

    def reopen(self) -> None:
        """Forward a port to the release, or update the address after it was reinstalled."""
        service = ("get", "service", f"{self.name}-public", "-o", "jsonpath={.spec.clusterIP}")
        forward_port(self.shell, 0, self.kubectl(*service).strip(), HTTP_PORT, self._forwarded)

    @property
    def _forwarded(self) -> str:
        """Name of the forwarded port; `make deploy` names that of its release."""
        return "public" if self.name == release.NAME else self.name

    def create_namespace(self) -> None:
        """Create the namespace, at the restricted Pod Security Standard, unless it exists."""
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": RESTRICTED},
        }
        self.shell.run("kubectl", "apply", "-f", "-", stdin=json.dumps(namespace))

    def remove(self) -> None:
        """Uninstall the release and delete its namespace with everything in it."""
        self.helm("uninstall", self.name, "--ignore-not-found", "--wait")
        self.shell.run("kubectl", "delete", "namespace", self.namespace, "--wait")

    def bucket(self, prefix: str) -> set[str]:
        """Return the names of the objects in the bucket with this prefix."""
        return set(self.python("feedback", "-c", LIST, prefix).split())

    def audit(self) -> str:
        """Audit feedback from store, ledger and Kafka; fails if an offset is not accounted for."""
        return self.python("feedback", "-m", "services.feedback", "audit")


def rows(report: str, stream: str) -> int:
    """Return the rows of an audit over all partitions."""
    return sum(
        int(found) for found in re.findall(rf"^{stream} topic=.* rows=(\d+) ", report, re.MULTILINE)
    )


def until(what: str, holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"after {seconds:.0f} s still not so: {what}"
        time.sleep(AGAIN_SECONDS)


def ask(person: Client, text: str) -> tuple[str, str]:
    """Return the answer and the id of its message."""
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": text}]}
    status, answer = person.call("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"], answer["id"].removeprefix("chatcmpl-")


def rate(person: Client, message_id: str, up: bool = True, seconds: float = 60) -> str:
    """Submit a thumb with the same request id until acknowledged.

    After the death of a replica, calls fail for seconds.
    """
    body = {"messageId": message_id, "requestId": str(uuid.uuid4()), "thumb": {"up": up}}
    end = time.monotonic() + seconds
    while (answer := person.call("POST", "/api/feedback", body))[0] != 200:
        assert answer[0] == 503, answer
        assert time.monotonic() < end, answer
        time.sleep(AGAIN_SECONDS)
    return str(answer[1]["eventId"])


# Two replicas of stateful services, as in production; of others the new replica starts before the
# old one stops. A model server with little CPU writes slowly, so that answers run while pods stop,
# and release cores are sufficient.
TWO_REPLICAS = {
    "services": {
        "gateway": {"replicas": 2, "settings": {"coalesce_seconds": 0.25}},
        "feedback": {"replicas": 2},
        # All users get the promoted version.
        "generator": {"settings": {"watch_share": 0}},
    },
    "serving": {"predictor": {"resources": {"limits": {"cpu": "250m"}}}},
}

# Resources for two releases on a node with two cores.
SMALL = {
    "serviceDefaults": {"resources": {"requests": {"cpu": "10m"}}},
    "serving": {"predictor": {"resources": {"requests": {"cpu": "10m"}}}},
    "evaluation": {"resources": {store: {"requests": {"cpu": "10m"}} for store in STORES}},
}


def annotated(text: str) -> dict[str, Any]:
    """Values that change every pod."""
    note = {"podAnnotations": {"note": text}}
    return {"serviceDefaults": note, "serving": {"predictor": note}}
