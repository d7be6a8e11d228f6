"""Where the alert rules are, for whoever starts a Prometheus."""

from pathlib import Path

ALERTS = Path(__file__).resolve().parent / "alerts.yaml"
