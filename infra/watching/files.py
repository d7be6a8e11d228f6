"""Paths of the files for Prometheus and Grafana.

The files are part of the chart, which installs them into clusters.
"""

from pathlib import Path

FILES = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel" / "files"
ALERTS = FILES / "alerts.yaml"
DASHBOARDS = FILES / "dashboards"
PANEL_THRESHOLDS = FILES / "panel_thresholds.yaml"
