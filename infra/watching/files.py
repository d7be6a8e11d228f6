"""Where the files are that Prometheus and Grafana read."""

from pathlib import Path

ALERTS = Path(__file__).resolve().parent / "alerts.yaml"
DASHBOARDS = Path(__file__).resolve().parent / "dashboards"
