"""Dashboards as read by Grafana: current files, no overlapping panels, no fixed data source."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from infra.docs.metrics import metrics
from infra.watching.boards import BOARDS
from infra.watching.files import ALERTS, DASHBOARDS
from infra.watching.grafana import render
from infra.watching.panels import COLUMNS, Dashboard

NAMES = [board.name for board in BOARDS]
OTHERS = {"up", "process_resident_memory_bytes"}
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
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_metrics_of_panels_and_alerts_exist_in_the_code() -> None:
    texts = [ALERTS.read_text(), *(file.read_text() for file in DASHBOARDS.glob("*.json"))]
    used = {
        SUFFIXES.sub("", name)
        for text in texts
        for name in re.findall(r"\bthumbwheel_[a-z_]+", text)
    }
    made = {metric.name for metric in metrics()}
    assert used <= made
