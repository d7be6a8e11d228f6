"""Metrics of the guardrail. Categories come from a closed list, never from texts."""

from prometheus_client import Counter

VERDICTS = Counter(
    "thumbwheel_guardrail_verdicts_total",
    "Verdicts of the guardrail policy.",
    ["stage", "action", "category"],
)
