"""Each of the 40 points passes for one chart and fails after one change of it."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from infra.check.chart.__main__ import GROUPS, check, flat, main
from infra.check.chart.chart import Chart
from infra.check.chart.points import Outcome, judge

GOOD = Path(__file__).parent / "checked_chart"
POINTS = {point.name: point for points in GROUPS.values() for point in points}
SERVER, POD, WATCHING = "templates/server.yaml", "templates/_pod.tpl", "templates/watching.yaml"
README, SCHEMA, META = "README.md", "values.schema.json", "Chart.yaml"
STORES = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: stores}}}]}"
FROM_SECRET = "valueFrom: {secretKeyRef: {name: {{ .Values.existingSecret }}, key: password}}"
SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {name: generated}
stringData: {password: %s}
"""
# Point, file, text, replacement. A replacement of "" takes the text away.
CHANGES = (
    ("pss-restricted", POD, "runAsNonRoot: true", "runAsNonRoot: false"),
    ("pss-restricted", POD, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
    ("pss-restricted", POD, "capabilities: {drop: [ALL]}", "capabilities: {drop: [NET_RAW]}"),
    ("pss-restricted", POD, "  seccompProfile: {type: RuntimeDefault}", ""),
    ("pss-restricted", POD, "automountServiceAccountToken: false", "hostNetwork: true"),
    (
        "pss-restricted",
        SERVER,
        "persistentVolumeClaim: {claimName: {{ .Release.Name }}-files}",
        "hostPath: {path: /}",
    ),
    ("read-only-root", POD, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    ("token", POD, "automountServiceAccountToken: false", ""),
    ("rights", SERVER, "verbs: [get]", 'verbs: ["*"]'),
    ("rights", SERVER, "resources: [configmaps]", "resources: [secrets]"),
    ("namespace", SERVER, "kind: Role\n", "kind: ClusterRole\n"),
    ("namespace", SERVER, "kind: Role\nmetadata:", "kind: Role\nmetadata:\n  namespace: default"),
    ("ingress-denied", SERVER, "ingress: [{ports: [{port: 8080}]}]", "ingress: [{}]"),
    ("ingress-denied", SERVER, "kind: NetworkPolicy", "kind: OtherPolicy"),
    ("egress-denied", SERVER, "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]"),
    ("egress-denied", SERVER, STORES, "{ports: [{port: 443}]}"),
    ("egress-denied", SERVER, STORES, "{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}"),
    ("no-literal-credentials", SERVER, FROM_SECRET, "value: hunter2"),
    ("no-literal-credentials", SERVER, "GREETING: ", 'STORE: "s3://user:hunter2@s3"\n  GREETING: '),
    ("existing-secrets", WATCHING, "{{- range", SECRET % "hunter2" + "{{- range"),
    ("probes", SERVER, "readinessProbe: {", "startupProbe: {"),
    ("probes", SERVER, "livenessProbe: {tcpSocket", "startupProbe: {tcpSocket"),
    (
        "probes",
        SERVER,
        "{tcpSocket: {port: http}, failureThreshold: 6}",
        "{httpGet: {path: /ready, port: http}, failureThreshold: 1}",
    ),
    ("resources", POD, ", limits: {memory: 64Mi}", ""),
    ("resources", POD, "cpu: 100m, ", ""),
    ("shutdown", SERVER, "lifecycle: {preStop: {sleep: {seconds: 10}}}", ""),
    ("shutdown", SERVER, "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 5"),
    ("updates", SERVER, "maxUnavailable: 0", "maxUnavailable: 100%"),
    (
        "updates",
        SERVER,
        "{type: RollingUpdate, rollingUpdate: {maxUnavailable: 0}}",
        "{type: Recreate}",
    ),
    ("replicated", SERVER, "minReplicas: 2", "minReplicas: 1"),
    ("disruption-budgets", SERVER, "kind: PodDisruptionBudget", "kind: OtherBudget"),
    ("disruption-budgets", SERVER, "maxUnavailable: 1", "minAvailable: 2"),
    ("disruption-budgets", SERVER, "maxUnavailable: 1", "maxUnavailable: 0"),
    ("spread", SERVER, "topologyKey: kubernetes.io/hostname", "topologyKey: zone"),
    ("claims", SERVER, "ReadWriteMany", "ReadWriteOnce"),
    ("autoscaling", SERVER, "spec:\n  strategy", "spec:\n  replicas: 3\n  strategy"),
    ("autoscaling", SERVER, "maxReplicas: 4", "maxReplicas: 1"),
    ("autoscaling", POD, "cpu: 100m, ", ""),
    ("placement", POD, "tolerations: {{ toJson .Values.pod.tolerations }}", "tolerations: []"),
    ("priority", POD, "priorityClassName: {{ .Values.pod.priorityClassName | quote }}", ""),
    ("identity", POD, "{{ toYaml . | indent 2 }}", "  runAsUser: 10001"),
    ("registries", POD, "{{ .Values.image.registry }}", "registry.example"),
    ("registries", POD, "imagePullSecrets: {{ toJson .Values.imagePullSecrets }}", ""),
    ("tags", "values.yaml", "tag: 1.0.0", "tag: latest"),
    ("tags", POD, ":{{ .Values.image.tag }}", ""),
    ("further-objects", WATCHING, "{{ toYaml . }}", ""),
    ("schema", SCHEMA, '"additionalProperties": false,\n  "properties"', '"properties"'),
    (
        "schema",
        SCHEMA,
        '"additionalProperties": false,\n      "properties": {\n        "reg',
        '"properties": {\n        "reg',
    ),
    ("readme", README, "Text that the server sends.", ""),
    ("readme", README, "| `greeting` |", "| `other` |"),
    ("notes", "templates/NOTES.txt", "kubectl", "Installed."),
    ("release-test", "templates/tests/answer.yaml", "hook: test", "hook: post-install"),
    ("kube-version", META, 'kubeVersion: ">=1.30.0-0"', ""),
    ("upgrade-notes", README, "## Upgrading", "## Use"),
    ("labels", POD, "app.kubernetes.io/managed-by: {{ .Release.Service }}", ""),
    (
        "labels",
        SERVER,
        "selector:\n    matchLabels:",
        "selector:\n    matchLabels:\n      app.kubernetes.io/version: 1.0.0",
    ),
    (
        "two-releases",
        SERVER,
        "kind: Role\nmetadata:\n  name: {{ .Release.Name }}-reader",
        "kind: Role\nmetadata:\n  name: reader",
    ),
    ("two-releases", WATCHING, '"uid": "{{ .Release.Name }}"', '"uid": "fixed"'),
    (
        "two-releases",
        SERVER,
        'selector: {{- include "selector" . | nindent 4 }}',
        "selector: {app.kubernetes.io/name: checked}",
    ),
    ("repeatable", SERVER, "GREETING: ", "RANDOM: {{ randAlphaNum 20 }}\n  GREETING: "),
    ("rolling-configuration", SERVER, "checksum/configuration", "other"),
    ("image-list", META, "registry.example/server", "registry.example/other"),
    ("image-list", META, "artifacthub.io/images", "example.com/images"),
    ("provenance", META, "artifacthub.io/signKey", "example.com/other"),
    ("provenance", META, "example.com/sbom: https://example.com/checked-1.0.0.cdx.json", ""),
    ("monitors", WATCHING, "kind: PodMonitor", "kind: OtherMonitor"),
    (
        "monitors",
        WATCHING,
        'matchLabels: {{- include "selector" . | nindent 6 }}',
        "matchLabels: {app: other}",
    ),
    ("alerts", WATCHING, ', runbook_url: "https://example.com/Down"', ""),
    ("alerts", WATCHING, "labels: {severity: critical}", ""),
    ("alerts", WATCHING, "kind: PrometheusRule", "kind: OtherRule"),
    ("alert-scope", WATCHING, '{namespace="{{ .Release.Namespace }}"}', ""),
    ("dashboards", WATCHING, '[{"name": "namespace"}]', "[]"),
    ("dashboards", WATCHING, '"panels": [], ', ""),
)
# Points that say nothing about a chart of a single ConfigMap.
WITHOUT_PODS = {
    "pss-restricted",
    "read-only-root",
    "token",
    "rights",
    "ingress-denied",
    "egress-denied",
    "probes",
    "resources",
    "shutdown",
    "updates",
    "replicated",
    "disruption-budgets",
    "spread",
    "claims",
    "autoscaling",
    "placement",
    "priority",
    "identity",
    "registries",
    "tags",
    "rolling-configuration",
    "image-list",
    "monitors",
    "alert-scope",
}


def test_there_are_40_points_and_each_has_a_change_that_breaks_it():
    names = [point.name for points in GROUPS.values() for point in points]
    assert len(names) == len(set(names)) == 40
    assert {name for name, *_ in CHANGES} == set(names)
    assert all(point.how and point.why and point.title for point in POINTS.values())


def test_a_chart_passes_all_points(capsys):
    assert main([str(GOOD), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["score"] == {"pass": 40, "fail": 0, "not applicable": 0}
    assert not [point for point in report["points"] if point["findings"]]


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    CHANGES,
    ids=[f"{item[0]}-{n}" for n, item in enumerate(CHANGES)],
)
def test_a_change_breaks_its_point(tmp_path, name, file, old, new):
    chart = shutil.copytree(GOOD, tmp_path / "chart")
    text = (chart / file).read_text()
    assert old in text
    (chart / file).write_text(text.replace(old, new))
    result = judge(POINTS[name], Chart(chart))
    assert result.outcome is Outcome.FAILED
    assert result.findings


def test_points_without_an_object_do_not_apply(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / META).write_text("apiVersion: v2\nname: small\nversion: 1.0.0\n")
    (tmp_path / "templates" / "one.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"
    )
    results = flat(check(Chart(tmp_path)))
    assert {
        item.point.name for item in results if item.outcome is Outcome.NOT_APPLICABLE
    } == WITHOUT_PODS


def test_the_exit_status_says_whether_a_point_fails(tmp_path, capsys):
    chart = shutil.copytree(GOOD, tmp_path / "chart")
    (chart / "templates" / "NOTES.txt").unlink()
    assert main([str(chart)]) == 1
    output = capsys.readouterr().out
    assert "39 passed, 1 failed, 0 not applicable of 40" in output
    assert "NOTES.txt" in output


def test_a_packaged_chart_is_unpacked(tmp_path, capsys):
    with tarfile.open(tmp_path / "checked-1.0.0.tgz", "w:gz") as tar:
        tar.add(GOOD, "checked")
    assert main([str(tmp_path / "checked-1.0.0.tgz")]) == 0
    assert "40 passed" in capsys.readouterr().out


def test_structured_values_of_a_configuration_are_no_credentials(tmp_path):
    chart = shutil.copytree(GOOD, tmp_path / "chart")
    text = (chart / SERVER).read_text()
    block = '  job.json: |\n    {\n      "secret": {\n        "name": "keys"\n      }\n    }\n'
    (chart / SERVER).write_text(text.replace("data:\n  GREETING", f"data:\n{block}  GREETING"))
    assert judge(POINTS["no-literal-credentials"], Chart(chart)).outcome is Outcome.PASSED


def test_a_chart_that_cannot_be_rendered_has_no_score(tmp_path, capsys):
    values = tmp_path / "values.yaml"
    values.write_text("unknown: 1\n")
    assert main([str(GOOD), "-f", str(values)]) == 2
    assert "unknown" in capsys.readouterr().err
