"""Where the files are that Prometheus and Grafana read: in the chart, which brings them to
clusters.
"""

from pathlib import Path

FILES = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel" / "files"
ALERTS = FILES / "alerts.yaml"
DASHBOARDS = FILES / "dashboards"
