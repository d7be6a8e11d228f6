"""Metrics of the generator by version.

The canary watch of the training loop reads the metrics with the label `version`.
"""

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.telemetry import LATENCY_BUCKETS_SECONDS

GENERATIONS = Counter(
    "thumbwheel_generations_total",
    "Ended generations by version, arm and reason.",
    ["version", "arm", "reason"],
)
TOKENS = Counter(
    "thumbwheel_tokens_total",
    "Tokens by version and kind (prompt, completion).",
    ["version", "kind"],
)
SAMPLES = Counter(
    "thumbwheel_generator_samples_total",
    "Finished answers by version and by the model server's tokens and log-probs: whole or none.",
    ["version", "told"],
)
FIRST_TEXT_SECONDS = Histogram(
    "thumbwheel_first_text_seconds",
    "From the request to the first text of the model server.",
    ["version"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
EXTERNAL_ANSWERS = Counter(
    "thumbwheel_external_answers_total",
    "Requests to the endpoints of external models by model and outcome.",
    ["model", "outcome"],
)
TRAFFIC_LOST = Counter(
    "thumbwheel_traffic_counts_lost_total",
    "Generations missing in the counts of all replicas, because a commit had an unknown outcome.",
)
RUNNING = Gauge("thumbwheel_generations_running", "Running generations.", ["version"])
VERSIONS_READY = Gauge(
    "thumbwheel_version_ready",
    "1 for a version of the rollout that is ready, 0 for a version that is not.",
    ["version"],
)
MODEL_SERVER_REPLICAS = Gauge(
    "thumbwheel_model_server_replicas",
    "Replicas of the model server by the last probe: answering or silent.",
    ["state"],
)
for _state in ("answering", "silent"):
    MODEL_SERVER_REPLICAS.labels(_state)
KUBERNETES_UP = Gauge(
    "thumbwheel_kubernetes_up",
    "1 while the Kubernetes API returns these objects; absent without InferenceServices.",
    ["objects"],
)
SHARE = Gauge("thumbwheel_version_share", "Share of the users of a version.", ["version"])
ROLLOUT_SERIAL = Gauge(
    "thumbwheel_rollout_serial",
    "Serial number of this replica's rollout, without renewals of the lease of a watch; "
    "replicas differ only briefly.",
)
ROLLOUT_READ_TIME = Gauge(
    "thumbwheel_rollout_read_time_seconds",
    "Unix time of the last read of the rollout; ages while the store is unavailable.",
)
ROLLOUT_WATCHED = Gauge(
    "thumbwheel_rollout_watched",
    "1 while the stable version is compared with the version before its promotion, otherwise 0.",
)
ROLLOUT_REGRESSED = Gauge(
    "thumbwheel_rollout_regressed",
    "1 after the watch has rolled a promotion back, until the next change of the rollout.",
)
WATCH_E_VALUE = Gauge(
    "thumbwheel_watch_e_value",
    "Evidence of the watch by version and row of the comparison; a rollback needs hundreds.",
    ["version", "row"],
)
WATCH_LOOK_TIME = Gauge(
    "thumbwheel_watch_look_time_seconds",
    "Unix time of the last comparison by this replica; 0 before the first.",
)
ROLLOUT_HALTED = Gauge(
    "thumbwheel_rollout_halted",
    "1 while an operator has halted canaries, promotions and training runs, otherwise 0.",
)
