"""Helm 3 renders the same objects as Helm 4, and refuses the same values by name."""

from typing import Any

import pytest

from tests.charts.rendering import Object, every_file, helm, refusal, render
from tests.charts.test_refusals import BY_SCHEMA, BY_TEMPLATE


def without_what_is_generated(found: Object) -> Any:
    return {**found, "data": sorted(found["data"])} if found["kind"] == "Secret" else found


def test_it_is_helm_3() -> None:
    assert helm("version", "--short", before=True).stdout.startswith("v3.")
    assert helm("version", "--short").stdout.startswith("v4.")


@every_file("everything-values.yaml", "evaluation-values.yaml", "ray-values.yaml")
def test_both_render_the_same(values: str) -> None:
    before, now = render(values, before=True), render(values)
    assert [without_what_is_generated(each) for each in before] == [
        without_what_is_generated(each) for each in now
    ]


def test_both_refuse_the_same_by_the_schema() -> None:
    """The two versions of Helm have different validators; both name all wrong values in a single
    run.
    """
    told = refusal("existing-values.yaml", *(said for said, _ in BY_SCHEMA.values()), before=True)
    assert [named for _, named in BY_SCHEMA.values() if named not in told] == []


FIRST, *REST = BY_TEMPLATE


@pytest.mark.parametrize(
    "case", [FIRST, *(pytest.param(case, marks=pytest.mark.long) for case in REST)]
)
def test_both_refuse_the_same_by_the_template(case: str) -> None:
    said, named = BY_TEMPLATE[case]
    told = refusal("existing-values.yaml", said, before=True)
    assert [word for word in named.split() if word not in told] == []
