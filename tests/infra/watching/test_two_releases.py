"""Alerts of two releases on one Prometheus, with the rules that the chart renders for each."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.charts.rendering import of_kind, render
from tests.infra.watching.cases import CASES, Case
from tests.infra.watching.promtool import run_cases, unit_test, with_labels

PRODUCTION, STAGING = "chat", "staging"


@cache
def rules(namespace: str) -> Mapping[str, Any]:
    """Return the rules of a release with the usual name in a namespace, by alert."""
    (found,) = of_kind(render("gitops-values.yaml", namespace=namespace), "PrometheusRule")
    return {rule["alert"]: rule for group in found["spec"]["groups"] for rule in group["rules"]}


def labels(namespace: str) -> dict[str, str]:
    """Return the labels that the PodMonitor of the release sets."""
    return {"namespace": namespace, "release": "tw"}


def quiet(firing: Case) -> Case:
    """Return a case of the alert in which it does not fire at the time of the firing case."""
    return next(
        case
        for case in CASES
        if case.alert == firing.alert and not case.summary and case.minutes >= firing.minutes
    )


def test_only_the_faulty_release_alerts(tmp_path: Path) -> None:
    tests = [
        unit_test(
            rules(PRODUCTION), case, labels(PRODUCTION), with_labels(quiet(case), labels(STAGING))
        )
        for case in CASES
        if case.summary
    ]
    done = run_cases(tmp_path, [rules(PRODUCTION), rules(STAGING)], tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_equal_states_of_both_releases_are_not_compared(tmp_path: Path) -> None:
    """RolloutsDiffer never ended if two releases had different rollouts."""
    one = Case("RolloutsDiffer", {'thumbwheel_rollout_serial{instance="g1"}': "4x20"}, 10)
    other = Case("RolloutsDiffer", {'thumbwheel_rollout_serial{instance="g2"}': "9x20"}, 10)
    test = unit_test(
        rules(PRODUCTION), one, labels(PRODUCTION), with_labels(other, labels(STAGING))
    )
    done = run_cases(tmp_path, [rules(PRODUCTION), rules(STAGING)], [test])
    assert done.returncode == 0, done.stdout + done.stderr
