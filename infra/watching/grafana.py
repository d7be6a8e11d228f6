"""Rendering of dashboards as Grafana JSON.

A variable selects the data source, so a file works in every Grafana.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from infra.watching.panels import COLUMNS, Dashboard, Panel, Row, Unit

# Schema of Grafana 11; Grafana migrates older files.
SCHEMA_VERSION = 39
DATASOURCE: Mapping[str, str] = {"type": "prometheus", "uid": "${datasource}"}
VARIABLE = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
    "hide": 0,
    "multi": False,
    "includeAll": False,
}


def render(dashboard: Dashboard) -> str:
    """Return the text of the file; equal dashboards yield equal text."""
    whole = {
        "uid": f"thumbwheel-{dashboard.name}",
        "title": f"Thumbwheel: {dashboard.title}",
        "description": dashboard.description,
        "tags": ["thumbwheel"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [VARIABLE]},
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Thumbwheel",
                "tags": ["thumbwheel"],
                "asDropdown": True,
            }
        ],
        "panels": [
            {"id": number, **panel} for number, panel in enumerate(_placed(dashboard.rows), 1)
        ],
    }
    return json.dumps(whole, indent=1) + "\n"


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """Place rows below each other and panels from left to right, with line breaks at full width."""
    top = 0
    for row in rows:
        yield {
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(top, 0, COLUMNS, 1),
        }
        top, left, tallest = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            yield {**_panel(panel), "gridPos": _place(top, left, panel.width, panel.height)}
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _place(top: int, left: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, object]:
    defaults: dict[str, object] = {"unit": panel.unit}
    if not panel.now:
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
        # The axis starts at 0, except for times since 1970.
        if panel.unit is not Unit.TIME:
            defaults["min"] = 0
    return {
        "type": "stat" if panel.now else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "instant": panel.now,
                "range": not panel.now,
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _NOW if panel.now else _LINES,
    }


_LINES = {
    "legend": {"displayMode": "list", "placement": "bottom"},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_NOW = {
    "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
    "textMode": "auto",
    "graphMode": "none",
}
