"""promtool's unit tests of alert rules."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.machine.servers.installation import locate
from tests.infra.watching.cases import Case

Rules = Mapping[str, Any]


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    """Run promtool and return its result."""
    command = [str(locate().promtool), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def unit_test(
    rules: Rules, case: Case, own: Mapping[str, str] | None = None, beside: Case | None = None
) -> dict[str, Any]:
    """Return the unit test of a case.

    Args:
        rules: rules by alert, with the labels and annotations of the expected alert.
        own: labels of the release of the case, added to all of its series.
        beside: a case without an alert, whose series have already all labels.
    """
    rule = rules[case.alert]
    expected = {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": {**rule["annotations"], "summary": case.summary},
    }
    series = with_labels(case, own or {}).series | (beside.series if beside else {})
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{case.minutes}m",
                "alertname": case.alert,
                "exp_alerts": [expected] if case.summary else [],
            },
        ],
    }


def with_labels(case: Case, labels: Mapping[str, str]) -> Case:
    """Return the case with additional labels on all of its series."""
    added = ",".join(f'{name}="{value}"' for name, value in labels.items())
    series = {}
    for name, values in case.series.items():
        metric, _, matchers = name.removesuffix("}").partition("{")
        inside = ",".join(part for part in (matchers, added) if part)
        series[f"{metric}{{{inside}}}"] = values
    return Case(case.alert, series, case.minutes, case.summary, case.labels)


def run_cases(
    folder: Path, rules: Sequence[Rules], tests: Sequence[dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """Run promtool with the rules and tests of each alert separately.

    promtool evaluates all given rules in every minute of every case.

    Args:
        rules: rules by alert, of each release.
    """
    files = []
    names = [test["alert_rule_test"][0]["alertname"] for test in tests]
    for alert in dict.fromkeys(names):
        loaded, file = folder / f"{alert}.rules.json", folder / f"{alert}.tests.json"
        groups = [{"name": str(n), "rules": [each[alert]]} for n, each in enumerate(rules)]
        loaded.write_text(json.dumps({"groups": groups}))
        found = [test for test, name in zip(tests, names, strict=True) if name == alert]
        file.write_text(json.dumps({"rule_files": [loaded.name], "tests": found}))
        files.append(file)
    return promtool("test", "rules", *files)
