"""Alert rules tested by promtool: syntax, and firing only when expected."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.machine.servers.installation import locate
from infra.watching.files import ALERTS
from tests.infra.watching.cases import CASES, Case

ROOT = Path(__file__).resolve().parents[3]
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}
HEADINGS = ("## What it means", "## Where to look", "## What to do", "## When to wake somebody")


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(locate().promtool), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def expected(case: Case) -> list[dict[str, Any]]:
    if not case.summary:
        return []
    rule = RULES[case.alert]
    annotations = {"summary": case.summary, "runbook": rule["annotations"]["runbook"]}
    return [{"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": annotations}]


def unit_test(case: Case) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in case.series.items()
        ],
        "alert_rule_test": [
            {
                "eval_time": f"{case.minutes}m",
                "alertname": case.alert,
                "exp_alerts": expected(case),
            },
        ],
    }


def run_cases(folder: Path, cases: tuple[Case, ...]) -> subprocess.CompletedProcess[str]:
    """Run promtool with the rules and tests of each alert separately.

    promtool evaluates all given rules in every minute of every case.
    """
    files = []
    for alert in dict.fromkeys(case.alert for case in cases):
        rules, tests = folder / f"{alert}.rules.json", folder / f"{alert}.tests.json"
        rules.write_text(json.dumps({"groups": [{"name": alert, "rules": [RULES[alert]]}]}))
        found = [unit_test(case) for case in cases if case.alert == alert]
        tests.write_text(json.dumps({"rule_files": [rules.name], "tests": found}))
        files.append(tests)
    return promtool("test", "rules", *files)


def test_rules_are_valid() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(RULES)} rules found" in checked.stdout


def test_alerts_fire_exactly_in_their_cases(tmp_path: Path) -> None:
    done = run_cases(tmp_path, CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_case_is_detected(tmp_path: Path) -> None:
    quiet = next(case for case in CASES if case.alert == "SinkBehind" and not case.summary)
    assert (
        run_cases(
            tmp_path, (Case(quiet.alert, quiet.series, quiet.minutes, "it fires"),)
        ).returncode
        == 1
    )


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


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == set(RULES)
