"""Finding S-11: keys of signed calls; private keys are in the pods of their callers only."""

import base64
import copy
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from infra.service_table import service_table
from services.chassis.identity import Caller
from services.chassis.service_identity import IDENTITY_KEY, TokenSigner, TokenVerifier
from tests.charts.cluster_api import serving
from tests.charts.rendering import (
    CHART,
    VALUES,
    Object,
    component,
    helm,
    mounted_secrets,
    of_kind,
    parse,
    pods,
    render,
)

INTERNAL = {service.name for service in service_table().internal}
SIGNING = {"gateway", "generator", "review", "session", "training"}
LOCAL, RAY, EXISTING = "one-node-values.yaml", "ray-values.yaml", "gitops-values.yaml"


def secret(objects: list[Object], name: str) -> Object:
    (found,) = [item for item in of_kind(objects, "Secret") if component(item) == name]
    return found


def environment(objects: list[Object]) -> Mapping[str, str]:
    """Return the identity variables of all pods."""
    return {
        item["name"]: item.get("value", "")
        for pod in pods(objects).values()
        for container in pod["spec"]["containers"]
        for item in container.get("env", ())
        if "_IDENTITY_" in item["name"]
    }


def test_created_keys_sign_and_verify_for_their_callers(tmp_path: Path) -> None:
    objects = list(render(LOCAL))
    private, public = secret(objects, "identity")["data"], secret(objects, "callers")["data"]
    callers = {*SIGNING, "operator"}
    assert private.keys() == {f"{name}.key" for name in callers}
    assert public.keys() == {f"{name}.pem" for name in callers}
    assert len(set(private.values())) == len(set(public.values())) == len(callers)
    (tmp_path / "callers").mkdir()
    for name in callers:
        (tmp_path / f"{name}.key").write_bytes(base64.b64decode(private[f"{name}.key"]))
        (tmp_path / "callers" / f"{name}.pem").write_bytes(base64.b64decode(public[f"{name}.pem"]))
    verifier = TokenVerifier(tmp_path / "callers", required=True)
    for name in callers:
        token = TokenSigner(name, tmp_path / f"{name}.key").token("/a.B/C", Caller())
        assert verifier.verify("/a.B/C", Caller(), [(IDENTITY_KEY, token)]) == name


@pytest.mark.parametrize("values", [LOCAL, RAY])
def test_each_private_key_is_in_the_pods_of_its_caller_only(values: str) -> None:
    objects = list(render(values))
    private = mounted_secrets(objects, "identity")
    assert private.keys() == SIGNING
    for name, found in private.items():
        assert found["items"] == [{"key": f"{name}.key", "path": f"{name}.key"}]
    assert mounted_secrets(objects, "callers").keys() == INTERNAL
    assert "operator.key" not in str(pods(objects))


@pytest.mark.parametrize("values", [LOCAL, RAY])
def test_services_require_tokens_by_default(values: str) -> None:
    expected = {f"TW_{name.upper()}_IDENTITY_KEY": f"/identity/{name}.key" for name in SIGNING}
    expected |= {f"TW_{name.upper()}_IDENTITY_KEYS": "/callers" for name in INTERNAL}
    assert environment(list(render(values))) == expected


def test_permissive_services_accept_unsigned_calls() -> None:
    found = environment(list(render(LOCAL, "identity.mode=permissive")))
    assert {name: value for name, value in found.items() if name.endswith("REQUIRED")} == {
        f"TW_{name.upper()}_IDENTITY_REQUIRED": "false" for name in INTERNAL
    }


def test_without_identity_nothing_is_created_or_mounted() -> None:
    objects = list(render(LOCAL, "identity.mode=none"))
    assert {component(item) for item in of_kind(objects, "Secret")}.isdisjoint(
        {"identity", "callers"}
    )
    assert mounted_secrets(objects, "identity") == mounted_secrets(objects, "callers") == {}
    assert environment(objects) == {}


def test_upgrade_that_creates_the_keys_accepts_unsigned_calls_of_old_pods() -> None:
    """`helm template --is-upgrade` has no cluster, as if the secrets did not exist."""
    objects = list(render(LOCAL, upgrade=True))
    assert secret(objects, "identity")
    assert environment(objects)["TW_SESSION_IDENTITY_REQUIRED"] == "false"
    existing = list(render(EXISTING, upgrade=True))
    assert "TW_SESSION_IDENTITY_REQUIRED" not in environment(existing)


def replica_sets(objects: Sequence[Object], replicas: int, *names: str) -> list[Object]:
    """Return a ReplicaSet for each Deployment of these components."""
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{item['metadata']['name']}-{number}-{replicas}",
                "namespace": "chat",
                "ownerReferences": [{"kind": "Deployment", "name": item["metadata"]["name"]}],
            },
            "spec": {"template": item["spec"]["template"]},
            "status": {"replicas": replicas},
        }
        for number, item in enumerate(of_kind(objects, "Deployment"))
        if component(item) in names
    ]


UNSIGNED, SIGNED = "identity.mode=none", "identity.mode=permissive"
UPGRADE = ("template", "tw", str(CHART), "--namespace", "chat", "--is-upgrade")


def upgrade(
    existing: Sequence[Object],
    kinds: Sequence[Object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> subprocess.CompletedProcess[str]:
    """Render an upgrade in a cluster with existing objects."""
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path))
    with serving(existing, kinds=kinds) as url:
        server = ("--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", url)
        return helm(*UPGRADE, "-f", str(VALUES / LOCAL), *server)


@pytest.mark.parametrize(
    ("running", "required"),
    [
        # A first upgrade has failed and was rolled back, or the release returns from mode none.
        ([(UNSIGNED, 1, "tw")], False),
        # A first upgrade has timed out: pods of both revisions run.
        ([(UNSIGNED, 1, "tw"), (SIGNED, 1, "tw")], False),
        # A first upgrade has succeeded; another release of the namespace is not upgraded.
        ([(UNSIGNED, 0, "tw"), (SIGNED, 1, "tw"), (UNSIGNED, 1, "other")], True),
    ],
    ids=["rolled back", "timed out", "succeeded"],
)
def test_tokens_are_required_when_no_pod_of_a_caller_runs_without_a_key(
    running: Sequence[tuple[str, int, str]],
    required: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The secrets exist in all cases, because Helm keeps them."""
    rendered = render(LOCAL, SIGNED)
    existing = [*of_kind(rendered, "Secret")]
    for mode, replicas, release in running:
        existing += replica_sets(render(LOCAL, mode, release=release), replicas, "session")
    result = upgrade(existing, rendered, tmp_path, monkeypatch)
    assert result.returncode == 0, result.stderr
    found = environment(parse(result.stdout))
    assert "TW_GATEWAY_IDENTITY_KEY" in found
    assert ("TW_SESSION_IDENTITY_REQUIRED" not in found) == required


def test_tokens_stay_required_while_a_service_becomes_a_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator of earlier releases calls no service, so its old pods need no key."""
    rendered = render(LOCAL)
    old = copy.deepcopy(replica_sets(rendered, 1, "gateway", "session", "generator"))
    for replica_set in old:
        (container,) = replica_set["spec"]["template"]["spec"]["containers"]
        container["env"] = [
            item
            for item in container["env"]
            if item["name"] not in ("TW_GENERATOR_IDENTITY_KEY", "TW_GENERATOR_FEEDBACK_TARGET")
        ]
    result = upgrade([*of_kind(rendered, "Secret"), *old], rendered, tmp_path, monkeypatch)
    assert result.returncode == 0, result.stderr
    found = environment(parse(result.stdout))
    assert "TW_GENERATOR_IDENTITY_KEY" in found
    assert not {name for name in found if name.endswith("IDENTITY_REQUIRED")}


@pytest.mark.parametrize(
    ("kind", "file"), [("identity", "generator.key"), ("callers", "generator.pem")]
)
def test_upgrade_without_the_key_of_a_new_caller_is_refused(
    kind: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = copy.deepcopy(render(LOCAL))
    lacking = secret(list(rendered), kind)
    del lacking["data"][file]
    result = upgrade(of_kind(rendered, "Secret"), rendered, tmp_path, monkeypatch)
    assert result.returncode != 0
    assert f"{file} in {lacking['metadata']['name']}" in result.stderr


def test_services_that_sign_are_deployments() -> None:
    """The chart looks for old pods of callers in the ReplicaSets of Deployments."""
    objects = render(LOCAL)
    deployments = {component(item) for item in of_kind(objects, "Deployment")}
    assert SIGNING - {"training"} <= deployments


def test_existing_secrets_are_mounted_and_no_others_created() -> None:
    objects = list(render(EXISTING))
    assert of_kind(objects, "Secret") == []
    assert {found["secretName"] for found in mounted_secrets(objects, "identity").values()} == {
        "identity"
    }
    assert {found["secretName"] for found in mounted_secrets(objects, "callers").values()} == {
        "callers"
    }
