"""Secrets created by the chart.

They are created once by hooks that cannot delete them, and are not part of a revision that a
rollback restores.
"""

import pytest

from tests.charts.rendering import Object, component, of_kind, render

every_case = pytest.mark.parametrize("values", ["evaluation-values.yaml", "cpu-values.yaml"])


def created_secrets(values: str) -> list[Object]:
    return of_kind(render(values, "secrets.existing=", release="chat"), "Secret")


def annotations(found: Object) -> dict[str, str]:
    return dict(found["metadata"]["annotations"])


@every_case
def test_secrets_are_created_before_install_and_upgrade_but_not_rollback(
    values: str,
) -> None:
    evaluation = {"evaluation"} if values == "evaluation-values.yaml" else set()
    assert {component(secret) for secret in created_secrets(values)} == {
        *("keys", "identity", "callers", "model-server"),
        *evaluation,
    }
    for secret in created_secrets(values):
        assert annotations(secret)["helm.sh/hook"].split(",") == ["pre-install", "pre-upgrade"]


@every_case
def test_no_hook_policy_deletes_an_existing_secret(values: str) -> None:
    """The default of Helm is before-hook-creation; hook-succeeded would delete a new secret."""
    for secret in created_secrets(values):
        assert annotations(secret)["helm.sh/hook-delete-policy"] == "hook-failed"


@every_case
def test_an_older_chart_owns_and_keeps_the_secret(values: str) -> None:
    for secret in created_secrets(values):
        assert annotations(secret)["meta.helm.sh/release-name"] == "chat"
        assert annotations(secret)["meta.helm.sh/release-namespace"] == "chat"
        assert annotations(secret)["helm.sh/resource-policy"] == "keep"
        assert secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
