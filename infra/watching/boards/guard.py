"""The guard: what it takes back or leaves out, at which stage, for which reason, and what it costs."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, quantiles, rate, share

VERDICTS, SHOWN = "thumbwheel_guardrail_verdicts_total", "thumbwheel_guard_verdicts_total"
TURNS = "thumbwheel_turns_total"

POLICY = Row(
    "What it decides",
    (
        Panel(
            "Blocked turns",
            "Of all turns. ManyBlocked fires at 30 %.",
            Unit.RATIO,
            [
                Query(share(TURNS, 'reason="input_blocked"'), "questions"),
                Query(share(TURNS, 'reason="output_blocked"'), "answers"),
            ],
        ),
        Panel(
            "Verdicts that people noticed",
            "Blocked or redacted, by category.",
            Unit.PER_SECOND,
            [Query(rate(SHOWN, "stage, action, category"), "{{stage}} {{action}} {{category}}")],
        ),
        Panel(
            "All verdicts",
            "An answer is judged piece by piece, so there are more of them than turns.",
            Unit.PER_SECOND,
            [Query(rate(VERDICTS, "stage, action"), "{{stage}} {{action}}")],
        ),
    ),
)
COST = Row(
    "What it costs",
    (
        Panel(
            "Time before the first words",
            "95 of 100 are faster. guard_input counts only what it takes longer than what runs beside it.",
            Unit.SECONDS,
            quantiles("thumbwheel_turn_stage_seconds", "stage", 'stage=~"guard_.*"', (0.95,)),
        ),
        Panel(
            "Duration of its calls",
            "By method.",
            Unit.SECONDS,
            quantiles("thumbwheel_rpc_seconds", "method", 'job="guardrail"'),
        ),
        Panel(
            "Calls that ended badly",
            "Without a verdict nothing is shown.",
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

BOARD = Dashboard("guard", "guard", "What the guard decides, and what it costs.", (POLICY, COST))
