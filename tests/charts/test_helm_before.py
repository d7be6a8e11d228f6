"""Helm 3 renders the same objects as Helm 4, and refuses the same values by name."""

from typing import Any

import pytest

from tests.charts.rendering import VALUES, Object, helm, refusal, render
from tests.charts.test_refusals import WRONG


def without_what_is_generated(found: Object) -> Any:
    return {**found, "data": sorted(found["data"])} if found["kind"] == "Secret" else found


def test_it_is_helm_3() -> None:
    assert helm("version", "--short", before=True).stdout.startswith("v3.")
    assert helm("version", "--short").stdout.startswith("v4.")


@pytest.mark.parametrize("values", sorted(path.name for path in VALUES.glob("*-values.yaml")))
def test_both_render_the_same(values: str) -> None:
    before, now = render(values, before=True), render(values)
    assert [without_what_is_generated(each) for each in before] == [without_what_is_generated(each) for each in now]


@pytest.mark.parametrize("case", WRONG)
def test_both_refuse_the_same(case: str) -> None:
    said, named = WRONG[case]
    told = refusal("existing-values.yaml", said, before=True)
    assert [word for word in named.split() if word not in told] == []
