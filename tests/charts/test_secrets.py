"""Secrets that the chart makes: once, by hooks that can delete nothing, in no revision that a
rollback could bring back.
"""

import pytest

from tests.charts.rendering import Object, component, of_kind, render

every_case = pytest.mark.parametrize("values", ["evaluation-values.yaml", "cpu-values.yaml"])


def made(values: str) -> list[Object]:
    return of_kind(render(values, "secrets.existing=", release="chat"), "Secret")


def annotations(found: Object) -> dict[str, str]:
    return dict(found["metadata"]["annotations"])


@every_case
def test_a_secret_is_made_before_an_install_or_an_upgrade_and_never_by_a_rollback(
    values: str,
) -> None:
    evaluation = {"evaluation"} if values == "evaluation-values.yaml" else set()
    assert {component(each) for each in made(values)} == {"keys", *evaluation}
    for each in made(values):
        assert annotations(each)["helm.sh/hook"].split(",") == ["pre-install", "pre-upgrade"]


@every_case
def test_no_policy_of_the_hook_deletes_a_secret_that_is_there(values: str) -> None:
    """Helm's default is before-hook-creation; hook-succeeded would take it as soon as it is made."""
    for each in made(values):
        assert annotations(each)["helm.sh/hook-delete-policy"] == "hook-failed"


@every_case
def test_a_chart_before_this_one_finds_it_as_its_own_and_keeps_it(values: str) -> None:
    for each in made(values):
        assert annotations(each)["meta.helm.sh/release-name"] == "chat"
        assert annotations(each)["meta.helm.sh/release-namespace"] == "chat"
        assert annotations(each)["helm.sh/resource-policy"] == "keep"
        assert each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
