"""Guardrail: blocked and redacted texts by stage and reason, and the latency."""

from infra.watching.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    Unit,
    failing_share,
    figure,
    quantiles,
    rate,
    share,
)

VERDICTS, SHOWN = "thumbwheel_guardrail_verdicts_total", "thumbwheel_guard_verdicts_total"
TURNS = "thumbwheel_turns_total"
OPERATOR = "thumbwheel_guardrail_operator_calls_total"
GUARD_FAILED = 'job="guardrail", code!~"OK|CANCELLED"'

GUARD_CALLS = "thumbwheel_rpcs_total"
SUMMARY = Row(
    "Summary",
    (
        figure(
            "Blocked requests",
            "Share of the requests with a blocked input or answer.",
            Unit.RATIO,
            failing_share(TURNS, 'reason=~"input_blocked|output_blocked"'),
            alert="ManyBlocked.ratio",
        ),
        figure(
            "Failed calls",
            "Calls without a verdict, so that no text is shown.",
            Unit.PER_SECOND,
            f"{rate(GUARD_CALLS, where=GUARD_FAILED)} or vector(0)",
        ),
        figure(
            "Duration of calls",
            "95th percentile of all methods.",
            Unit.SECONDS,
            quantiles("thumbwheel_rpc_seconds", where='job="guardrail"', of=(0.95,))[0].expression,
        ),
        figure(
            "Replicas",
            "Replicas that respond.",
            Unit.COUNT,
            'sum(up{job="guardrail"})',
        ),
    ),
)
POLICY = Row(
    "Verdicts",
    (
        Panel(
            "Blocked inputs and answers",
            "Share of all requests; the alert ManyBlocked adds both.",
            Unit.RATIO,
            [
                Query(share(TURNS, 'reason="input_blocked"'), "inputs"),
                Query(share(TURNS, 'reason="output_blocked"'), "answers"),
            ],
            alert="ManyBlocked.ratio",
        ),
        Panel(
            "Verdicts visible to users",
            "Blocked or redacted, by category.",
            Unit.PER_SECOND,
            [Query(rate(SHOWN, "stage, action, category"), "{{stage}} {{action}} {{category}}")],
        ),
        Panel(
            "All verdicts",
            "An answer is checked in parts, so verdicts outnumber answers.",
            Unit.PER_SECOND,
            [Query(rate(VERDICTS, "stage, action"), "{{stage}} {{action}}")],
        ),
        Panel(
            "Guard model of the operator",
            "Judged texts by result; other results than safe and unsafe are failures.",
            Unit.PER_SECOND,
            [Query(rate(OPERATOR, "result"), "{{result}}")],
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
            "Duration of calls by method",
            "Median and 95th percentile.",
            Unit.SECONDS,
            quantiles("thumbwheel_rpc_seconds", "method", 'job="guardrail"'),
        ),
        Panel(
            "Failed calls by code",
            "Fail closed: without a verdict no text is shown.",
            Unit.PER_SECOND,
            [Query(rate(GUARD_CALLS, "code", GUARD_FAILED), "{{code}}")],
        ),
    ),
)

BOARD = Dashboard(
    "guard", "guard", "Verdicts of the guardrail and their latency.", (SUMMARY, POLICY, COST)
)
