"""Alert rules tested by promtool: syntax, and firing only when expected."""

from pathlib import Path

import pytest
import yaml

from infra.service_table import service_table
from infra.watching.files import ALERTS
from infra.watching.rules import local_rules
from tests.infra.watching.cases import CASES, Case
from tests.infra.watching.promtool import promtool, run_cases, unit_test
from tests.infra.watching.selectors import selectors

ROOT = Path(__file__).resolve().parents[3]
LOCAL = local_rules(service_table().names)
RULES = {
    rule["alert"]: rule for group in yaml.safe_load(LOCAL)["groups"] for rule in group["rules"]
}
HEADINGS = ("## What it means", "## Where to look", "## What to do", "## When to wake somebody")


def test_rules_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text(LOCAL)
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(RULES)} rules found" in checked.stdout


def test_alerts_fire_exactly_in_their_cases(tmp_path: Path) -> None:
    done = run_cases(tmp_path, [RULES], [unit_test(RULES, case) for case in CASES])
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_case_is_detected(tmp_path: Path) -> None:
    quiet = next(case for case in CASES if case.alert == "SinkBehind" and not case.summary)
    wrong = Case(quiet.alert, quiet.series, quiet.minutes, "it fires")
    assert run_cases(tmp_path, [RULES], [unit_test(RULES, wrong)]).returncode == 1


@pytest.mark.parametrize("alert", RULES)
def test_alert_has_firing_and_silent_cases(alert: str) -> None:
    kinds = {bool(case.summary) for case in CASES if case.alert == alert}
    assert kinds == {True, False}


@pytest.mark.parametrize("alert", RULES)
def test_alert_has_severity_and_runbook(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    page = (ROOT / rule["annotations"]["runbook"]).read_text()
    assert page.startswith(f"# {alert}\n")
    for heading in HEADINGS:
        assert f"\n{heading}\n" in page


@pytest.mark.parametrize("alert", RULES)
def test_every_selector_is_limited_to_the_release(alert: str) -> None:
    """Each selector ends with a placeholder, which the chart replaces."""
    with_placeholders = yaml.safe_load(ALERTS.read_text())["groups"]
    (rule,) = [
        rule for group in with_placeholders for rule in group["rules"] if rule["alert"] == alert
    ]
    found = selectors(rule["expr"])
    assert found
    for metric, matchers in found:
        owners = {"kubelet": "<claims>", "kube": "<backups>"}
        scope = owners.get(metric.partition("_")[0], "<scope>")
        assert matchers.endswith((f",{scope}}}", f"{{{scope}}}")), metric


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == set(RULES)
