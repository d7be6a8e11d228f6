"""Dashboards as read by Grafana: current files, no overlapping panels, no fixed data source."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from infra.docs.metrics import metrics
from infra.watching.boards import BOARDS
from infra.watching.files import ALERTS, DASHBOARDS, PANEL_THRESHOLDS
from infra.watching.grafana import SCOPE, panel_thresholds, render
from infra.watching.panels import COLUMNS, Dashboard
from infra.watching.rules import thresholds
from tests.infra.watching.selectors import selectors

NAMES = [board.name for board in BOARDS]
SUFFIXES = re.compile(r"_(bucket|count|sum)$")


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("board", BOARDS, ids=NAMES)
def test_dashboard_file_is_current(board: Dashboard) -> None:
    assert (DASHBOARDS / f"{board.name}.json").read_text() == render(board)
    assert {file.stem for file in DASHBOARDS.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_distinct_ids_and_positions(name: str) -> None:
    panels = load(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y


@pytest.mark.parametrize("name", NAMES)
def test_panel_uses_the_data_source_variable_and_has_a_description(name: str) -> None:
    dashboard = load(name)
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables[:3] == ["datasource", "namespace", "release"]
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", NAMES)
def test_every_query_is_limited_to_the_selected_release(name: str) -> None:
    dashboard = load(name)
    queries = [
        (target["expr"], SCOPE)
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "version":
            queries.append(
                (re.findall(r"label_values\((.+), ", variable["query"]["query"])[0], SCOPE)
            )
    assert queries
    for expression, scope in queries:
        found = selectors(expression)
        assert found, expression
        assert [metric for metric, matchers in found if scope not in matchers] == []


@pytest.mark.parametrize("board", BOARDS, ids=NAMES)
def test_version_variable_limits_the_metrics_with_a_version(board: Dashboard) -> None:
    """The chat path shows all versions, since a service that fails affects all of them."""
    versioned = {metric.name for metric in metrics() if "version" in metric.labels}
    limited = 0
    for panel in load(board.name)["panels"]:
        for target in panel.get("targets", ()):
            for metric, matchers in selectors(target["expr"]):
                expected = bool(board.versions) and SUFFIXES.sub("", metric) in versioned
                assert ('version=~"$version"' in matchers) == expected
                limited += expected
    assert bool(limited) == bool(board.versions)


@pytest.mark.parametrize("name", NAMES)
def test_first_row_is_a_summary_of_few_figures(name: str) -> None:
    panels = load(name)["panels"]
    assert (panels[0]["type"], panels[0]["title"]) == ("row", "Summary")
    rows = [number for number, panel in enumerate(panels) if panel["type"] == "row"]
    summary = panels[1 : rows[1]]
    assert 3 <= len(summary) <= 6
    assert {panel["type"] for panel in summary} == {"stat"}
    assert len({panel["gridPos"]["y"] for panel in summary}) == 1


def test_lines_are_the_default_thresholds_of_their_alerts() -> None:
    lines = yaml.safe_load(PANEL_THRESHOLDS.read_text())
    assert PANEL_THRESHOLDS.read_text() == panel_thresholds(BOARDS)
    drawn = set()
    for name in NAMES:
        for panel in load(name)["panels"]:
            of_alert = lines.get(name, {}).get(str(panel["id"]))
            if of_alert:
                alert, key = of_alert.split(".")
                defaults = panel["fieldConfig"]["defaults"]
                assert defaults["thresholds"]["steps"][-1]["value"] == float(
                    thresholds()[alert][key]
                )
                assert alert in panel["description"]
                if panel["type"] == "timeseries":
                    assert defaults["custom"]["thresholdsStyle"] == {"mode": "dashed"}
                drawn.add(alert)
    assert len(drawn) > 15


@pytest.mark.parametrize("name", NAMES)
def test_titles_of_panels_are_distinct(name: str) -> None:
    titles = [panel["title"] for panel in load(name)["panels"] if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)


def test_metrics_of_panels_and_alerts_exist_in_the_code() -> None:
    texts = [ALERTS.read_text(), *(file.read_text() for file in DASHBOARDS.glob("*.json"))]
    used = {
        SUFFIXES.sub("", name)
        for text in texts
        for name in re.findall(r"\bthumbwheel_[a-z_]+", text)
    }
    made = {metric.name for metric in metrics()}
    assert used <= made
