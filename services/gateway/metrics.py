"""The gateway's own figures, beside those of the chassis. Labels are ids and names, never texts."""

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.telemetry import LATENCY_BUCKETS_SECONDS

TURNS = Counter(
    "thumbwheel_turns_total",
    "Ended turns by finish reason, version and arm.",
    ["reason", "version", "arm"],
)
TURNS_RUNNING = Gauge("thumbwheel_turns_running", "Turns that run now.")
TTFT_SECONDS = Histogram(
    "thumbwheel_ttft_seconds",
    "Request accepted to first text released.",
    buckets=LATENCY_BUCKETS_SECONDS,
)
ADDED_SECONDS = Histogram(
    "thumbwheel_added_seconds",
    "The part of the time to first text that the generator did not take.",
    buckets=LATENCY_BUCKETS_SECONDS,
)
STAGE_SECONDS = Histogram(
    "thumbwheel_turn_stage_seconds",
    "Stages before the first text: admit (the queue, quotas), enhance, begin, claim, guard_input (what it takes longer), generate, "
    "guard_output.",
    ["stage"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
GUARD_VERDICTS = Counter(
    "thumbwheel_guard_verdicts_total",
    "Verdicts that redact or block.",
    ["stage", "action", "category"],
)
ENHANCER_SKIPPED = Counter(
    "thumbwheel_enhancer_skipped_total", "Messages left as typed because the enhancer was away."
)
ANSWERS_NOT_STORED = Counter(
    "thumbwheel_answers_not_stored_total", "Answers that session did not take in time."
)
THUMBS = Counter(
    "thumbwheel_thumbs_total",
    "Acknowledged thumbs by version and value.",
    ["version", "arm", "value"],
)
ERASURES = Counter(
    "thumbwheel_gateway_erasures_total",
    "Erasures of users' data: done, or unfinished (to be sent again).",
    ["outcome"],
)
HTTP_REQUESTS = Counter(
    "thumbwheel_http_requests_total", "HTTP requests by route and status.", ["route", "status"]
)
HTTP_SECONDS = Histogram(
    "thumbwheel_http_seconds",
    "Time to the response's head, by route.",
    ["route"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
REFUSED_BEARERS = Counter(
    "thumbwheel_refused_bearers_total", "Keys and tokens that were refused, by reason.", ["reason"]
)
ISSUER_FETCHES = Counter(
    "thumbwheel_issuer_fetches_total", "Fetches of issuers' keys by outcome.", ["outcome"]
)

VALKEY_UP = Gauge(
    "thumbwheel_gateway_valkey_up",
    "1 while the store that gateways share answers; absent without one, as only a labelled gauge can be.",
    ["store"],
)
VALKEY_ERRORS = Counter(
    "thumbwheel_gateway_valkey_errors_total",
    "Calls without a reply by use: lost, away (not tried), refused (a defect).",
    ["use", "kind"],
)
VALKEY_SECONDS = Histogram(
    "thumbwheel_gateway_valkey_seconds",
    "Duration of a call by use.",
    ["use"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
SHARED_EVENTS = Counter(
    "thumbwheel_gateway_shared_events_total", "Events of turns that other gateways can read."
)
CLAIMS = Counter(
    "thumbwheel_gateway_claims_total",
    "Turns with a request_id: ours, elsewhere (followed), unknown.",
    ["claim"],
)
RESUMES = Counter(
    "thumbwheel_gateway_resumes_total", "Resumed turns: answered here, or elsewhere.", ["where"]
)
STOPS_ELSEWHERE = Counter(
    "thumbwheel_gateway_stops_elsewhere_total", "Turns stopped on another gateway."
)
GATEWAYS_LOST = Counter(
    "thumbwheel_gateway_readers_lost_total", "Readers whose turn's gateway was lost."
)
HANDED_OVER = Counter(
    "thumbwheel_gateway_handed_over_total", "Readers sent to another gateway when this one ended."
)
QUOTA_DECISIONS = Counter(
    "thumbwheel_gateway_quota_decisions_total",
    "Turns admitted, or refused by a limit (requests, tokens, turns) of a holder (user, tenant).",
    ["limit", "holder", "decision"],
)
QUOTA_AWAY = Counter(
    "thumbwheel_gateway_quota_away_total",
    "Turns decided without the shared book, by policy.",
    ["policy"],
)
ANSWERS = Counter(
    "thumbwheel_gateway_cached_answers_total",
    "Questions that may be answered from the cache: hit, miss, away, unreadable, in_doubt (an experiment runs); and kept answers.",
    ["result"],
)
