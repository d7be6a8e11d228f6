"""Alert rules and PodMonitor of the chart: switches, thresholds, addresses of pages, and scope."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.service_table import service_table
from infra.watching.boards import BOARDS
from infra.watching.rules import thresholds
from tests.charts.rendering import CHART, VALUES, Object, helm, of_kind, parse, refusal, render
from tests.infra.watching.promtool import promtool

RULES = {
    "enabled": True,
    "labels": {"team": "chat"},
    "runbookBaseUrl": "https://docs.example/runbooks/",
    "thresholds": {
        "RequestsFail": {"ratio": 0.2, "for": "9m"},
        "ConsumerBehind": {"events": 2_000_000},
        "EventsLost": {"for": "1m"},
    },
    "disabled": ["HttpErrors", "LoopFailed", "LoopStalled"],
}


def default() -> Sequence[Object]:
    return render("everything-values.yaml")


def changed() -> Sequence[Object]:
    """Render a release with KServe, a service without replicas, and all values of rules."""
    sets = ("serving.mode=kserve", "serving.kserve.runtime=predictor")
    given = f"monitoring.rules={json.dumps(RULES)}"
    return render(
        *("gitops-values.yaml", "services.enhancer.replicas=0", *sets), json_sets=(given,)
    )


def rules(objects: Sequence[Object]) -> Mapping[str, Any]:
    (found,) = of_kind(objects, "PrometheusRule")
    return {rule["alert"]: rule for group in found["spec"]["groups"] for rule in group["rules"]}


def test_every_alert_is_installed_by_default_without_the_address_of_a_page() -> None:
    found = rules(default())
    assert found.keys() == thresholds().keys()
    assert {tuple(rule["annotations"]) for rule in found.values()} == {("runbook", "summary")}


def test_disabled_alerts_are_absent_and_a_group_without_alerts_too() -> None:
    (found,) = of_kind(changed(), "PrometheusRule")
    assert found["metadata"]["labels"]["team"] == "chat"
    assert rules(changed()).keys() == thresholds().keys() - set(RULES["disabled"])
    assert "training" not in {group["name"] for group in found["spec"]["groups"]}


def test_an_unknown_alert_is_refused_with_the_known_names() -> None:
    error = refusal("gitops-values.yaml", "monitoring.rules.disabled[0]=TurnsFail")
    assert {name for name in thresholds() if name not in error} == set()


def test_each_alert_has_the_address_of_its_page() -> None:
    for alert, rule in rules(changed()).items():
        address = f"https://docs.example/runbooks/{alert}.md"
        assert rule["annotations"]["runbook_url"] == address


def test_address_of_the_pages_follows_from_the_repository_of_a_release(tmp_path: Path) -> None:
    copy = tmp_path / "thumbwheel"
    shutil.copytree(CHART, copy)
    file = copy / "Chart.yaml"
    metadata = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**metadata, "sources": ["https://github.com/acme/chat/"]}))
    shown = helm(
        *("template", "tw", str(copy), "-f", str(VALUES / "gitops-values.yaml")),
        *("--show-only", "templates/monitoring.yaml"),
    )
    assert shown.returncode == 0, shown.stderr
    address = "https://github.com/acme/chat/blob/main/docs/runbooks/ServiceDown.md"
    assert rules(parse(shown.stdout))["ServiceDown"]["annotations"]["runbook_url"] == address


def test_only_the_given_thresholds_change() -> None:
    found, before = rules(changed()), rules(render("gitops-values.yaml"))
    failing = before["RequestsFail"]["expr"]
    assert found["RequestsFail"]["expr"] == failing.replace("> 0.05", "> 0.2") != failing
    assert found["RequestsFail"]["for"] == "9m"
    assert float(found["ConsumerBehind"]["expr"].rpartition(">")[2]) == 2_000_000
    assert found["EventsLost"]["for"] == "1m"
    own = {"RequestsFail", "ConsumerBehind", "ServiceDown"}
    for alert in found.keys() - own:
        assert found[alert]["expr"] == before[alert]["expr"]


def test_rules_are_valid_and_have_the_labels_of_the_release(tmp_path: Any) -> None:
    for number, objects in enumerate((default(), changed())):
        (found,) = of_kind(objects, "PrometheusRule")
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(found["spec"]))
        checked = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
        assert checked.returncode == 0, checked.stderr
        for rule in rules(objects).values():
            assert rule["labels"].items() >= {"namespace": "chat", "release": "tw"}.items()
            assert not re.search(r"<\w+(=|>)", rule["expr"])


def test_a_missing_service_is_reported_if_the_values_deploy_it() -> None:
    def required(objects: Sequence[Object]) -> set[str]:
        return set(re.findall(r'absent\(up\{job="(\w+)"', rules(objects)["ServiceDown"]["expr"]))

    every = set(service_table().names)
    assert required(default()) == every
    # KServe may scale versions to zero.
    assert required(changed()) == every - {"enhancer", "predictor"}


def dashboards(objects: Sequence[Object]) -> Mapping[str, Any]:
    """Return the dashboards by their file in the folder of Grafana's sidecar."""
    found = [item for item in of_kind(objects, "ConfigMap") if "grafana_dashboard" in str(item)]
    return {name: json.loads(text) for item in found for name, text in item["data"].items()}


def test_dashboards_of_two_releases_can_be_in_one_folder_of_grafana() -> None:
    one = dashboards(render("gitops-values.yaml"))
    other = dashboards(render("gitops-values.yaml", namespace="staging"))
    assert len(one) == len(other) == len(BOARDS)
    assert one.keys().isdisjoint(other.keys())
    for field in ("uid", "title"):
        values = [board[field] for board in (*one.values(), *other.values())]
        assert len(set(values)) == len(values)
    assert max(len(board["uid"]) for board in one.values()) <= 40


def test_a_dashboard_opens_with_its_own_release() -> None:
    for board in dashboards(render("gitops-values.yaml", namespace="staging")).values():
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert variables["namespace"]["current"]["value"] == "staging"
        assert variables["release"]["current"]["value"] == "tw"
        assert board["tags"] == board["links"][0]["tags"] == ["thumbwheel", "staging/tw"]


def test_lines_of_panels_follow_the_thresholds_of_the_values() -> None:
    def line(objects: Sequence[Object], title: str) -> Any:
        board = next(one for name, one in dashboards(objects).items() if name.endswith("chat.json"))
        (panel,) = (panel for panel in board["panels"] if panel["title"] == title)
        return panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]

    for title in ("Failed requests", "Failed requests over time"):
        assert line(render("gitops-values.yaml"), title) == 0.05
        assert line(changed(), title) == 0.2
    assert line(changed(), "HTTP errors") == 0.05


def claims(objects: Sequence[Object]) -> Iterator[str]:
    """Yield the claims that pods of the release write to."""
    for item in of_kind(objects, "Deployment", "StatefulSet", "CronJob", "Job"):
        spec = item["spec"].get("jobTemplate", item)["spec"]
        for volume in spec["template"]["spec"].get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {"readOnly": True})
            if not claim.get("readOnly"):
                yield claim["claimName"]
        for claim in spec.get("volumeClaimTemplates", ()):
            yield f"{claim['metadata']['name']}-{item['metadata']['name']}-0"


@pytest.mark.parametrize("values", ["everything-values.yaml", "evaluation-values.yaml"])
def test_the_alert_on_volumes_selects_the_claims_of_the_release(values: str) -> None:
    backups = ("backup.enabled=true", "backup.bucket.name=", "backup.bucket.endpoint=")
    objects = render(
        *(values, "monitoring.rules.enabled=true", *backups),
        *("backup.bucket.existingSecret=", "backup.claim.existingClaim=team.vault"),
    )
    expression = rules(objects)["VolumeNearlyFull"]["expr"]
    found = set(re.findall(r'\{namespace="chat",persistentvolumeclaim=~"([^"]+)"\}', expression))
    (pattern,) = found
    written = set(claims(objects))
    assert written > {"team.vault"}
    assert [claim for claim in written if not re.fullmatch(pattern, claim)] == []
    assert not re.fullmatch(pattern, "spool-tw-2-thumbwheel-feedback-0")
    assert not re.fullmatch(pattern, "data-packages")


def test_the_alert_on_backups_names_the_schedule_of_the_release() -> None:
    objects = render("everything-values.yaml", "monitoring.rules.enabled=true")
    (name,) = (
        one["metadata"]["name"]
        for one in of_kind(objects, "CronJob")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "backup"
    )
    expression = rules(objects)["BackupOverdue"]["expr"]
    assert expression.count(f'{{namespace="chat",cronjob="{name}"}}') == 2


def test_the_pod_monitor_labels_each_series_with_service_and_release() -> None:
    (monitor,) = of_kind(default(), "PodMonitor")
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        sources = {
            rule.get("targetLabel"): rule["sourceLabels"] for rule in endpoint["relabelings"]
        }
        pod = "__meta_kubernetes_pod_label_app_kubernetes_io"
        assert sources["job"] == [f"{pod}_component"]
        assert sources["release"] == [f"{pod}_instance"]
        assert sources["namespace"] == ["__meta_kubernetes_namespace"]
