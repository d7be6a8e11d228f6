"""What the guardrail counts. Categories are a closed list of the policy, never texts."""

from prometheus_client import Counter

VERDICTS = Counter(
    "thumbwheel_guardrail_verdicts_total",
    "Verdicts of the policy.",
    ["stage", "action", "category"],
)
