"""Helm 3 renders the same objects as Helm 4, and its schema refuses the same values by name.

Errors of templates are in `test_several_errors`.
"""

from typing import Any

from tests.charts.refused_values import BY_SCHEMA
from tests.charts.rendering import Object, every_file, helm, refusal, render


def without_generated_data(found: Object) -> Any:
    return {**found, "data": sorted(found["data"])} if found["kind"] == "Secret" else found


def test_the_binaries_are_helm_3_and_helm_4() -> None:
    assert helm("version", "--short", helm3=True).stdout.startswith("v3.")
    assert helm("version", "--short").stdout.startswith("v4.")


@every_file("everything-values.yaml", "evaluation-values.yaml", "ray-values.yaml")
def test_both_versions_render_equal_objects(values: str) -> None:
    helm3, helm4 = render(values, helm3=True), render(values)
    assert [without_generated_data(item) for item in helm3] == [
        without_generated_data(item) for item in helm4
    ]


def test_both_versions_refuse_the_same_values_by_the_schema() -> None:
    """Helm 3 and 4 have different validators; both report all invalid values of a run."""
    output = refusal(
        "existing-values.yaml", *(setting for setting, _ in BY_SCHEMA.values()), helm3=True
    )
    assert [named for _, named in BY_SCHEMA.values() if named not in output] == []
