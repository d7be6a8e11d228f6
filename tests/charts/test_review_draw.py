"""The job that draws items for reviewers: arguments, secrets and connections."""

from typing import Any

from tests.charts.rendering import component, of_kind, outside_ports, pods, render
from training.__main__ import parser
from training.data.feedback.bucket import bucket_location

VALUES, ENABLED = "existing-values.yaml", "reviewDraw.enabled=true"
POD = "review-draw/CronJob"


def container(*sets: str, values: str = VALUES) -> Any:
    (found,) = pods(render(values, ENABLED, *sets))[POD]["spec"]["containers"]
    return found


def policies(values: str, *sets: str) -> dict[str, Any]:
    return {
        component(item): item["spec"] for item in of_kind(render(values, *sets), "NetworkPolicy")
    }


def peers(rules: Any, key: str) -> set[str]:
    return {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in rules or ()
        for peer in rule.get(key, ())
        if "podSelector" in peer
    }


def test_nothing_is_drawn_by_default() -> None:
    assert POD not in pods(render(VALUES))
    assert "review-draw" not in str(policies(VALUES))


def test_training_accepts_the_arguments() -> None:
    sets = ("reviewDraw.amounts.random=2", "reviewDraw.days=10", "reviewDraw.language=de")
    args = container(*sets)["args"]
    assert args[0] == "training"
    options = parser().parse_args(args[1:])
    assert (options.blocked, options.disagreement, options.new_version) == (3, 6, 8)
    assert (options.random, options.days, options.new_version_days) == (2, 10, 14)
    assert (options.language, str(options.state), options.patience) == ("de", "/", 120)
    assert options.feedback.endswith("-feedback:50056")
    assert options.review.endswith("-review:50058")
    assert options.tls is None
    args = container("tls.mode=secrets")["args"]
    assert [str(path) for path in parser().parse_args(args[1:]).tls] == [
        "/tls/tls.crt",
        "/tls/tls.key",
        "/tls/ca.crt",
    ]


def test_defaults_of_chart_and_command_are_the_same() -> None:
    words = container()["args"][1:]
    given, default = parser().parse_args(words), parser().parse_args(["draw"])
    for name in ("blocked", "disagreement", "new_version", "random", "days", "language"):
        assert getattr(given, name) == getattr(default, name)
    assert given.new_version_days == default.new_version_days


def test_the_pod_has_the_bucket_and_the_key_of_training_and_no_claim() -> None:
    pod = pods(render(VALUES, ENABLED, "tls.mode=secrets", "trustBundle.configMap=company"))[POD]
    (found,) = pod["spec"]["containers"]
    environment = {one["name"]: one.get("value", "secret") for one in found["env"]}
    assert bucket_location(environment) is not None
    assert environment["TW_TRAINING_IDENTITY_KEY"] == "/identity/training.key"
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert not any("persistentVolumeClaim" in volume for volume in volumes.values())
    items = volumes["identity"]["secret"]["items"]
    assert items == [{"key": "training.key", "path": "training.key"}]
    assert volumes["tls"]["secret"]["secretName"].endswith("-training-tls")
    assert {mount["name"] for mount in found["volumeMounts"]} == set(volumes)
    assert not pod["spec"]["automountServiceAccountToken"]


def test_the_pod_reaches_feedback_review_and_the_bucket_only() -> None:
    found = policies(VALUES, ENABLED)
    own = found["review-draw"]
    assert set(own["policyTypes"]) == {"Ingress", "Egress"}
    assert not own.get("ingress")
    assert peers(own["egress"], "to") == {"feedback", "review"}
    assert outside_ports(own) == {8333}
    callees = {
        name
        for name, rules in found.items()
        if "review-draw" in peers(rules.get("ingress"), "from")
    }
    assert callees == {"feedback", "review"}
    evaluation = policies("evaluation-values.yaml", ENABLED)
    assert peers(evaluation["review-draw"]["egress"], "to") == {"feedback", "review", "s3"}
    assert "review-draw" in peers(evaluation["s3"]["ingress"], "from")


def test_cert_manager_issues_the_certificate_without_the_loop() -> None:
    objects = render(
        VALUES, ENABLED, "tls.mode=certManager", operators=("cert-manager.io/v1/Certificate",)
    )
    assert "training" in {component(one) for one in of_kind(objects, "Certificate")}


def test_answers_younger_than_the_items_are_accepted() -> None:
    kept = "services.review.settings.item_days=40"
    assert container("reviewDraw.days=39", kept)
