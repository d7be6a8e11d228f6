"""Restore of a backup: refused while a service with a database runs."""

import re

import pytest

from tests.charts.rendering import CHART, OPERATORS, VALUES, every_file, helm, pods, render

RESTORE = "backup.restore.from=latest"
NAMES = {"gateway", "session", "generator", "feedback", "review"}


def words_of(values: str, *sets: str) -> tuple[int, list[str]]:
    """Return Helm's exit status for a restore, and the words of its error that stop services."""
    options = [word for kind in OPERATORS for word in ("--api-versions", kind)]
    options += [word for item in (RESTORE, *sets) for word in ("--set", item)]
    result = helm("template", "tw", str(CHART), "-f", str(VALUES / values), *options)
    if result.returncode:
        assert "backup.restore.from: " in result.stderr
    return result.returncode, re.findall(r"--set (\S+)", result.stderr)


@pytest.mark.parametrize("replace", ["false", "true"])
def test_a_restore_beside_running_services_is_refused_by_name(replace: str) -> None:
    status, words = words_of(
        "existing-values.yaml", f"backup.restore.replace={str(replace).lower()}"
    )
    assert status != 0
    assert set(words) == {f"services.{name}.replicas=0" for name in NAMES}


@every_file("high-availability-values.yaml", "strimzi-values.yaml")
def test_the_words_of_the_error_stop_the_services_of_every_values_file(values: str) -> None:
    status, words = words_of(values, "serviceDefaults.replicas=0", *words_of(values)[1])
    assert (status, words) == (0, [])


def test_services_without_a_database_may_run_beside_a_restore() -> None:
    stopped = [f"services.{name}.replicas=0" for name in NAMES]
    objects = render("existing-values.yaml", RESTORE, *stopped)
    assert "backup/Job" in pods(objects)


def test_an_autoscaled_service_without_replicas_counts_as_running() -> None:
    scaled = "services.session.autoscaling.enabled=true"
    status, words = words_of("existing-values.yaml", "serviceDefaults.replicas=0", scaled)
    assert (status, words) == (1, ["services.session.autoscaling.enabled=false"])
