"""The chat path: do people get answers, how fast, and which service is in the way if not."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, quantiles, rate, share

TURNS, HTTP, RPCS = (
    "thumbwheel_turns_total",
    "thumbwheel_http_requests_total",
    "thumbwheel_rpcs_total",
)
TROUBLE = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"'

PEOPLE = Row(
    "Do people get answers?",
    (
        Panel(
            "Turns by how they ended",
            "failed is what people see as an error; blocked ones are answers of the guard.",
            Unit.PER_SECOND,
            [Query(rate(TURNS, "reason"), "{{reason}}")],
        ),
        Panel(
            "Failed turns",
            "The alert TurnsFail fires above 5 %.",
            Unit.RATIO,
            [Query(share(TURNS, 'reason="failed"'), "failed")],
        ),
        Panel(
            "Turns running",
            "Each holds a stream open.",
            Unit.COUNT,
            [Query("sum by (instance) (thumbwheel_turns_running)", "{{instance}}")],
        ),
        Panel(
            "Time to the first words",
            "From the request to the first text that was released.",
            Unit.SECONDS,
            quantiles("thumbwheel_ttft_seconds"),
        ),
        Panel(
            "What our own path adds",
            "The part of it that the model did not take.",
            Unit.SECONDS,
            quantiles("thumbwheel_added_seconds"),
        ),
        Panel(
            "Stages before the first words",
            "95 of 100 are faster. generate is the model, begin the database.",
            Unit.SECONDS,
            quantiles("thumbwheel_turn_stage_seconds", "stage", of=(0.95,)),
        ),
    ),
)
DOOR = Row(
    "The HTTP door",
    (
        Panel("Requests", "By route.", Unit.PER_SECOND, [Query(rate(HTTP, "route"), "{{route}}")]),
        Panel(
            "Requests that were not answered well",
            "4xx are callers' faults, 499 a client that left; 5xx are ours.",
            Unit.PER_SECOND,
            [Query(rate(HTTP, "status", 'status!~"2.."'), "{{status}}")],
        ),
        Panel(
            "Time to the head of the answer",
            "95 of 100 are faster, by route.",
            Unit.SECONDS,
            quantiles("thumbwheel_http_seconds", "route", of=(0.95,)),
        ),
        Panel(
            "Keys and tokens refused",
            "By reason. Unknown ones in great number are guesses.",
            Unit.PER_SECOND,
            [Query(rate("thumbwheel_refused_bearers_total", "reason"), "{{reason}}")],
        ),
        Panel(
            "Quotas: refused turns",
            "By limit and whose it is.",
            Unit.PER_SECOND,
            [
                Query(
                    rate(
                        "thumbwheel_gateway_quota_decisions_total",
                        "limit, scope",
                        'decision="refused"',
                    ),
                    "{{limit}} {{scope}}",
                )
            ],
        ),
        Panel(
            "Store shared by gateways",
            "1 while it answers; see the runbook ValkeyAway.",
            Unit.COUNT,
            [Query("thumbwheel_gateway_valkey_up", "{{instance}}")],
        ),
    ),
)
SERVICES = Row(
    "Services",
    (
        Panel(
            "Replicas that answer Prometheus",
            "By service.",
            Unit.COUNT,
            [Query('sum by (job) (up{job!="prometheus"})', "{{job}}")],
        ),
        Panel("Calls", "By service.", Unit.PER_SECOND, [Query(rate(RPCS, "job"), "{{job}}")]),
        Panel(
            "Calls that ended badly",
            "The leftmost service of the path that shows here is the cause; those before it follow.",
            Unit.PER_SECOND,
            [Query(rate(RPCS, "job, method, code", TROUBLE), "{{job}} {{method}} {{code}}")],
        ),
        Panel(
            "Duration of calls",
            "95 of 100 are faster, by service. Streams of the generator last as long as the answer.",
            Unit.SECONDS,
            quantiles("thumbwheel_rpc_seconds", "job", of=(0.95,)),
        ),
        Panel(
            "Event loop's lag",
            "99 of 100 wake earlier. Above 0.25 s something blocks every call of that process.",
            Unit.SECONDS,
            quantiles("thumbwheel_event_loop_lag_seconds", "job", of=(0.99,)),
        ),
        Panel(
            "Memory",
            "Resident, by process.",
            Unit.BYTES,
            [Query("process_resident_memory_bytes", "{{job}} {{instance}}")],
        ),
        Panel(
            "Admission: calls that wait for their first answer",
            "Of the limit, which follows the latency; queued calls are admitted within 2 s or refused.",
            Unit.COUNT,
            [
                Query(
                    "sum by (job, door) (thumbwheel_admission_starting)", "{{job}} {{door}} waiting"
                ),
                Query("sum by (job, door) (thumbwheel_admission_limit)", "{{job}} {{door}} limit"),
                Query(
                    "sum by (job, door) (thumbwheel_admission_queued)", "{{job}} {{door}} queued"
                ),
            ],
        ),
        Panel(
            "Admission: refused calls",
            "Refused after 2 s in the queue, by service. The alert Overloaded fires above 5 % of all calls.",
            Unit.PER_SECOND,
            [Query(rate("thumbwheel_admission_refused_total", "job, door"), "{{job}} {{door}}")],
        ),
        Panel(
            "Answers not stored, messages not enhanced",
            "The first is a page: people saw answers that are not in their conversations.",
            Unit.PER_SECOND,
            [
                Query(rate("thumbwheel_answers_not_stored_total"), "answers not stored"),
                Query(rate("thumbwheel_enhancer_skipped_total"), "left as typed"),
            ],
        ),
        Panel(
            "Conversations' database",
            "Transactions run again solve themselves; failed ones reached a caller.",
            Unit.PER_SECOND,
            [
                Query(
                    rate("thumbwheel_session_work_run_again_total", "reason"), "again: {{reason}}"
                ),
                Query(rate("thumbwheel_session_work_failed_total", "reason"), "failed: {{reason}}"),
            ],
        ),
    ),
)

BOARD = Dashboard(
    "chat",
    "chat path",
    "Do people get answers, how fast, and what is in the way.",
    (PEOPLE, DOOR, SERVICES),
)
