"""Chat path: success and latency of answers, and the service that causes a failure."""

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

TURNS, HTTP, RPCS = (
    "thumbwheel_turns_total",
    "thumbwheel_http_requests_total",
    "thumbwheel_rpcs_total",
)
TROUBLE = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"'

SUMMARY = Row(
    "Summary",
    (
        figure(
            "Services without a replica",
            "Services of which every replica fails to respond. Zero is healthy.",
            Unit.COUNT,
            'count(sum by (job) (up{job!="prometheus"}) == 0) or vector(0)',
            red_from=1,
        ),
        figure(
            "Failed requests",
            "Share of the requests for an answer that ended with an error.",
            Unit.RATIO,
            failing_share(TURNS, 'reason="failed"'),
            alert="RequestsFail.ratio",
        ),
        figure(
            "HTTP errors",
            "Share of the HTTP requests with a status of 5xx.",
            Unit.RATIO,
            failing_share(HTTP, 'status=~"5.."'),
            alert="HttpErrors.ratio",
        ),
        figure(
            "Time to first text",
            "95th percentile.",
            Unit.SECONDS,
            quantiles("thumbwheel_ttft_seconds", of=(0.95,))[0].expression,
            alert="FirstTextSlow.seconds",
        ),
        figure(
            "Rejected calls",
            "Share of the calls that overloaded services reject.",
            Unit.RATIO,
            failing_share(RPCS, 'code="RESOURCE_EXHAUSTED"'),
            alert="Overloaded.ratio",
        ),
        figure(
            "Answers not stored",
            "In the last hour: users saw them, but their conversations lack them.",
            Unit.COUNT,
            "sum(increase(thumbwheel_answers_not_stored_total[1h]))",
            red_from=1,
        ),
    ),
)
PEOPLE = Row(
    "Answers",
    (
        Panel(
            "Requests by result",
            "Users see failed requests as errors; blocked requests are decisions of the guardrail.",
            Unit.PER_SECOND,
            [Query(rate(TURNS, "reason"), "{{reason}}")],
        ),
        Panel(
            "Failed requests over time",
            "Share of the requests for an answer.",
            Unit.RATIO,
            [Query(share(TURNS, 'reason="failed"'), "failed")],
            alert="RequestsFail.ratio",
        ),
        Panel(
            "Running requests",
            "Each running request has an open stream.",
            Unit.COUNT,
            [Query("sum by (instance) (thumbwheel_turns_running)", "{{instance}}")],
        ),
        Panel(
            "Time to first text over time",
            "From the request to the first released text.",
            Unit.SECONDS,
            quantiles("thumbwheel_ttft_seconds"),
            alert="FirstTextSlow.seconds",
        ),
        Panel(
            "Latency without the model",
            "Time to first text minus the time of the model.",
            Unit.SECONDS,
            quantiles("thumbwheel_added_seconds"),
        ),
        Panel(
            "Stages before the first text",
            "95th percentile. generate is the model, begin the database.",
            Unit.SECONDS,
            quantiles("thumbwheel_turn_stage_seconds", "stage", of=(0.95,)),
        ),
    ),
)
HTTP_SERVER = Row(
    "HTTP server",
    (
        Panel("Requests", "By route.", Unit.PER_SECOND, [Query(rate(HTTP, "route"), "{{route}}")]),
        Panel(
            "Unsuccessful requests",
            "4xx: error of the caller, 499: client disconnected, 5xx: error of the server.",
            Unit.PER_SECOND,
            [Query(rate(HTTP, "status", 'status!~"2.."'), "{{status}}")],
        ),
        Panel(
            "Time to response headers",
            "95th percentile by route.",
            Unit.SECONDS,
            quantiles("thumbwheel_http_seconds", "route", of=(0.95,)),
        ),
        Panel(
            "Rejected keys and tokens",
            "By reason. Many unknown keys indicate guessing.",
            Unit.PER_SECOND,
            [Query(rate("thumbwheel_refused_bearers_total", "reason"), "{{reason}}")],
            alert="ManyRefusedKeys.perSecond",
        ),
        Panel(
            "Quotas: rejected requests",
            "By limit and scope.",
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
            "Shared state of the gateways",
            "1 if Valkey responds; see the runbook ValkeyUnavailable.",
            Unit.COUNT,
            [Query("thumbwheel_gateway_valkey_up", "{{instance}}")],
        ),
    ),
)
SERVICES = Row(
    "Services",
    (
        Panel(
            "Replicas scraped by Prometheus",
            "By service.",
            Unit.COUNT,
            [Query('sum by (job) (up{job!="prometheus"})', "{{job}}")],
        ),
        Panel("Calls", "By service.", Unit.PER_SECOND, [Query(rate(RPCS, "job"), "{{job}}")]),
        Panel(
            "Calls that ended badly",
            "The last failing service of the path is the cause; failures of its callers follow.",
            Unit.PER_SECOND,
            [Query(rate(RPCS, "job, method, code", TROUBLE), "{{job}} {{method}} {{code}}")],
        ),
        Panel(
            "Duration of calls",
            "95th percentile by service. Streams of the generator last as long as the answer.",
            Unit.SECONDS,
            quantiles("thumbwheel_rpc_seconds", "job", of=(0.95,)),
        ),
        Panel(
            "Event loop lag",
            "99th percentile. During a lag, blocking code delays every call of the process.",
            Unit.SECONDS,
            quantiles("thumbwheel_event_loop_lag_seconds", "job", of=(0.99,)),
            alert="EventLoopBlocked.seconds",
        ),
        Panel(
            "Memory",
            "Resident memory by process.",
            Unit.BYTES,
            [Query("process_resident_memory_bytes", "{{job}} {{instance}}")],
        ),
        Panel(
            "Admission: calls without a first response",
            "Compared with the adaptive limit; queued calls are admitted or rejected within 2 s.",
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
            "Admission: rejected calls",
            "Rejected after 2 s in the queue, by service. "
            "The alert Overloaded compares all rejected calls with all calls.",
            Unit.PER_SECOND,
            [Query(rate("thumbwheel_admission_refused_total", "job, door"), "{{job}} {{door}}")],
        ),
        Panel(
            "Unread answers",
            "Calls whose client does not read, by process. They end after max_write_seconds, and "
            "one key has at most max_caller_rpcs.",
            Unit.COUNT,
            [
                Query(
                    "sum by (job, instance, method) (thumbwheel_rpcs_unread)",
                    "{{job}} {{instance}} {{method}}",
                )
            ],
            alert="AnswersUnread.calls",
        ),
        Panel(
            "Answers not stored, messages not enhanced",
            "Answers not stored page: users saw answers that their conversations lack.",
            Unit.PER_SECOND,
            [
                Query(rate("thumbwheel_answers_not_stored_total"), "answers not stored"),
                Query(rate("thumbwheel_enhancer_skipped_total"), "not enhanced"),
            ],
        ),
        Panel(
            "Database of conversations",
            "Retried transactions need no action; failed ones returned an error to a caller.",
            Unit.PER_SECOND,
            [
                Query(
                    rate("thumbwheel_session_work_run_again_total", "reason"), "retried: {{reason}}"
                ),
                Query(rate("thumbwheel_session_work_failed_total", "reason"), "failed: {{reason}}"),
            ],
        ),
    ),
)

BOARD = Dashboard(
    "chat",
    "chat path",
    "Success and latency of answers, and causes of failures.",
    (SUMMARY, PEOPLE, HTTP_SERVER, SERVICES),
)
