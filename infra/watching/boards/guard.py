"""Guardrail: blocked and redacted texts by stage and reason, and the latency."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, quantiles, rate, share

VERDICTS, SHOWN = "thumbwheel_guardrail_verdicts_total", "thumbwheel_guard_verdicts_total"
TURNS = "thumbwheel_turns_total"

POLICY = Row(
    "Verdicts",
    (
        Panel(
            "Blocked turns",
            "Share of all turns. ManyBlocked fires at 30 %.",
            Unit.RATIO,
            [
                Query(share(TURNS, 'reason="input_blocked"'), "inputs"),
                Query(share(TURNS, 'reason="output_blocked"'), "answers"),
            ],
        ),
        Panel(
            "Verdicts visible to users",
            "Blocked or redacted, by category.",
            Unit.PER_SECOND,
            [Query(rate(SHOWN, "stage, action, category"), "{{stage}} {{action}} {{category}}")],
        ),
        Panel(
            "All verdicts",
            "An answer is checked in parts, so verdicts outnumber turns.",
            Unit.PER_SECOND,
            [Query(rate(VERDICTS, "stage, action"), "{{stage}} {{action}}")],
        ),
    ),
)
COST = Row(
    "Latency",
    (
        Panel(
            "Time before the first text",
            "95th percentile. guard_input counts only the excess over concurrent stages.",
            Unit.SECONDS,
            quantiles("thumbwheel_turn_stage_seconds", "stage", 'stage=~"guard_.*"', (0.95,)),
        ),
        Panel(
            "Duration of calls",
            "By method.",
            Unit.SECONDS,
            quantiles("thumbwheel_rpc_seconds", "method", 'job="guardrail"'),
        ),
        Panel(
            "Failed calls",
            "Fail closed: without a verdict no text is shown.",
            Unit.PER_SECOND,
            [
                Query(
                    rate("thumbwheel_rpcs_total", "code", 'job="guardrail", code!~"OK|CANCELLED"'),
                    "{{code}}",
                )
            ],
        ),
    ),
)

BOARD = Dashboard("guard", "guard", "Verdicts of the guardrail and their latency.", (POLICY, COST))
