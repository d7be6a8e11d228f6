"""Metrics of the gateway, in addition to those of the chassis. Labels never contain user text."""

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.telemetry import LATENCY_BUCKETS_SECONDS

TURNS = Counter(
    "thumbwheel_turns_total",
    "Ended turns by finish reason, version and arm.",
    ["reason", "version", "arm"],
)
TURNS_RUNNING = Gauge("thumbwheel_turns_running", "Running turns.")
TTFT_SECONDS = Histogram(
    "thumbwheel_ttft_seconds",
    "Request accepted to first text released.",
    buckets=LATENCY_BUCKETS_SECONDS,
)
ADDED_SECONDS = Histogram(
    "thumbwheel_added_seconds",
    "Time to first text without the generator's share.",
    buckets=LATENCY_BUCKETS_SECONDS,
)
STAGE_SECONDS = Histogram(
    "thumbwheel_turn_stage_seconds",
    "Stages before the first text: admit (queue, quotas), enhance, begin, claim, "
    "guard_input (beyond claim), generate, guard_output.",
    ["stage"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
GUARD_VERDICTS = Counter(
    "thumbwheel_guard_verdicts_total",
    "Verdicts that redact or block.",
    ["stage", "action", "category"],
)
ENHANCER_SKIPPED = Counter(
    "thumbwheel_enhancer_skipped_total",
    "Messages sent as typed because the enhancer was unavailable.",
)
ANSWERS_NOT_STORED = Counter(
    "thumbwheel_answers_not_stored_total", "Answers not accepted by session in time."
)
THUMBS = Counter(
    "thumbwheel_thumbs_total",
    "Acknowledged thumbs by version and value.",
    ["version", "arm", "value"],
)
RATED_ANSWERS = Counter(
    "thumbwheel_rated_answers_total",
    "Acknowledged thumbs by version, value and trait. Each thumb counts for three traits: task_*; "
    "length_short (of the answer, below 200 characters), _medium (below 1,000) or _long; "
    "question_enhanced or question_as_typed.",
    ["version", "trait", "value"],
)
ERASURES = Counter(
    "thumbwheel_gateway_erasures_total",
    "Erasures of users' data: done, or unfinished (to be repeated).",
    ["outcome"],
)
HTTP_REQUESTS = Counter(
    "thumbwheel_http_requests_total", "HTTP requests by route and status.", ["route", "status"]
)
HTTP_SECONDS = Histogram(
    "thumbwheel_http_seconds",
    "Time to the response head, by route.",
    ["route"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
REJECTED_CREDENTIALS = Counter(
    "thumbwheel_refused_bearers_total", "Rejected keys and tokens, by reason.", ["reason"]
)
ISSUER_FETCHES = Counter(
    "thumbwheel_issuer_fetches_total", "Fetches of issuers' keys by outcome.", ["outcome"]
)

VALKEY_UP = Gauge(
    "thumbwheel_gateway_valkey_up",
    "1 while the store shared by gateways answers; absent without a shared store.",
    ["store"],
)
VALKEY_ERRORS = Counter(
    "thumbwheel_gateway_valkey_errors_total",
    "Calls without a reply by use: lost, away (not sent), refused (a defect).",
    ["use", "kind"],
)
VALKEY_SECONDS = Histogram(
    "thumbwheel_gateway_valkey_seconds",
    "Duration of a call by use.",
    ["use"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
SHARED_EVENTS = Counter(
    "thumbwheel_gateway_shared_events_total", "Events published to other gateways."
)
CLAIMS = Counter(
    "thumbwheel_gateway_claims_total",
    "Turns with a request_id: ours, elsewhere (followed), unknown.",
    ["claim"],
)
RESUMES = Counter(
    "thumbwheel_gateway_resumes_total", "Resumed turns: answered here, or elsewhere.", ["where"]
)
REMOTE_STOPS = Counter(
    "thumbwheel_gateway_stops_elsewhere_total", "Turns stopped on another gateway."
)
READERS_LOST = Counter("thumbwheel_gateway_readers_lost_total", "Readers with a lost gateway.")
HANDED_OVER = Counter(
    "thumbwheel_gateway_handed_over_total", "Readers sent to another gateway at shutdown."
)
QUOTA_DECISIONS = Counter(
    "thumbwheel_gateway_quota_decisions_total",
    "Turns and feedback admitted, or rejected by a limit (requests, tokens, turns, feedback, "
    "readers) of a holder (user, tenant).",
    ["limit", "holder", "decision"],
)
QUOTA_OUTAGES = Counter(
    "thumbwheel_gateway_quota_away_total",
    "Turns and feedback decided without the shared quota store, by policy.",
    ["policy"],
)
CACHE_RESULTS = Counter(
    "thumbwheel_gateway_cached_answers_total",
    "Cacheable requests: hit, miss, away (store unavailable), unreadable, "
    "in_doubt (an experiment runs); kept: stored answers.",
    ["result"],
)
