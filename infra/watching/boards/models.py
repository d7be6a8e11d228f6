"""Models and thumbs: served versions, their ratings and the load of the model server."""

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

GENERATIONS, TURNS = "thumbwheel_generations_total", "thumbwheel_turns_total"
EXPERIMENT = "thumbwheel_experiment"
RATED = "thumbwheel_rated_answers_total"
EXTERNAL = "thumbwheel_external_answers_total"
# As in the alert: an answer that the user cancels or the provider withholds is no failure.
FAILED = 'outcome!~"answered|cancelled|too_long|filtered"'


def _thumbs_up(traits: str) -> str:
    """Return the share of thumbs up by version and trait, for traits of a pattern."""
    return share(RATED, f'value="up", trait=~"{traits}"', "version, trait")


SUMMARY = Row(
    "Summary",
    (
        figure(
            "Versions not ready",
            "Versions of the rollout that do not respond. Zero is healthy.",
            Unit.COUNT,
            "count(min by (version) (thumbwheel_version_ready) == 0) or vector(0)",
            red_from=1,
        ),
        figure(
            "Failed requests",
            "Share of the requests that a version should have answered.",
            Unit.RATIO,
            failing_share(TURNS, 'version!="", reason="failed"'),
            alert="RequestsFail.ratio",
        ),
        figure(
            "Waiting generations",
            "Of the version with the longest queue in a model server.",
            Unit.COUNT,
            "max(thumbwheel_predictor_waiting_requests)",
            "max(vllm:num_requests_waiting)",
            alert="ModelServerFull.requests",
        ),
        figure(
            "Age of the rollout",
            "Time since a replica of the generator has read the rollout; the oldest.",
            Unit.SECONDS,
            "time() - min(thumbwheel_rollout_read_time_seconds)",
            alert="RolloutStale.seconds",
        ),
        figure(
            "Rolled back or halted",
            "1: a promotion was rolled back, or an operator has halted the rollout.",
            Unit.COUNT,
            "max(thumbwheel_rollout_regressed) + max(thumbwheel_rollout_halted)",
            red_from=1,
        ),
        figure(
            "Failed requests to external models",
            "Share of the requests to the endpoints of external models.",
            Unit.RATIO,
            failing_share(EXTERNAL, FAILED),
            alert="ExternalModelFails.ratio",
        ),
    ),
)
ROLLOUT = Row(
    "Served versions",
    (
        Panel(
            "Share of users",
            "Users are assigned to a version and keep their version.",
            Unit.RATIO,
            [Query("max by (version) (thumbwheel_version_share)", "{{version}}")],
        ),
        Panel(
            "Ready versions",
            "0: the version is configured but does not respond.",
            Unit.COUNT,
            [Query("min by (version) (thumbwheel_version_ready)", "{{version}}")],
        ),
        Panel(
            "Age of the rollout state",
            "Grows while the store of the rollout is unavailable.",
            Unit.SECONDS,
            [Query("time() - thumbwheel_rollout_read_time_seconds", "{{instance}}")],
            alert="RolloutStale.seconds",
        ),
        Panel(
            "Halted",
            "1: an operator has halted canaries, promotions and training runs.",
            Unit.COUNT,
            [Query("max(thumbwheel_rollout_halted)", "halted")],
        ),
        Panel(
            "Watch after a promotion",
            "Watched 1: a share of the users keeps the version before, for comparison. "
            "Regressed 1: the promotion was rolled back (alert VersionRegressed).",
            Unit.COUNT,
            [
                Query("max(thumbwheel_rollout_watched)", "watched"),
                Query("max(thumbwheel_rollout_regressed)", "regressed"),
            ],
        ),
        Panel(
            "Evidence of the watch",
            "E-value against 'not worse' by row of the comparison. Thumbs roll back at 40, "
            "errors at 167, other rows at 250 to 1,000.",
            Unit.COUNT,
            [Query("max by (version, row) (thumbwheel_watch_e_value)", "{{version}} {{row}}")],
        ),
        Panel(
            "Age of the last comparison",
            "Of the replica that compares; above a minute during a watch, none does.",
            Unit.SECONDS,
            [Query("time() - (max(thumbwheel_watch_look_time_seconds) > 0)", "comparison")],
            alert="WatchStalled.seconds",
        ),
        Panel(
            "Generations missing in the comparison",
            "A commit of their counts had an unknown outcome.",
            Unit.COUNT,
            [
                Query(
                    "sum(increase(thumbwheel_traffic_counts_lost_total[$__rate_interval]))",
                    "generations",
                )
            ],
        ),
    ),
)
THUMBS = Row(
    "Ratings",
    (
        Panel(
            "Share of thumbs up",
            "Current thumbs with the anytime-valid confidence interval. "
            "Overlapping intervals permit no decision.",
            Unit.RATIO,
            [
                Query(
                    f"max by (version, arm) ({EXPERIMENT}_thumbs_up_ratio)", "{{version}} {{arm}}"
                ),
                Query(
                    f"max by (version, arm) ({EXPERIMENT}_thumbs_up_low_ratio)",
                    "{{version}} {{arm}} low",
                ),
                Query(
                    f"max by (version, arm) ({EXPERIMENT}_thumbs_up_high_ratio)",
                    "{{version}} {{arm}} high",
                ),
            ],
            width=12,
        ),
        Panel(
            "Current thumbs and users",
            "Amount of evidence.",
            Unit.COUNT,
            [
                Query(f"max by (version, arm) ({EXPERIMENT}_thumbs)", "{{version}} {{arm}} thumbs"),
                Query(
                    f"max by (version, arm) ({EXPERIMENT}_exposed_users)",
                    "{{version}} {{arm}} users",
                ),
            ],
            width=12,
        ),
        Panel(
            "Rates of answers and thumbs",
            "Share of the answers of the last day that were refused, asked again, edited, "
            "stopped, copied or left, and of the thumbs on them that were withdrawn. Implicit "
            "signals count with the user's consent only. They are no opinion: compare versions, "
            "not rates.",
            Unit.RATIO,
            [
                Query(
                    "max by (version, rate) (thumbwheel_version_rate_ratio)", "{{version}} {{rate}}"
                )
            ],
        ),
        Panel(
            "Answers behind the rates",
            "Number of answers, or of thumbs, behind each rate.",
            Unit.COUNT,
            [
                Query(
                    "max by (version, rate) (thumbwheel_version_rate_trials)",
                    "{{version}} {{rate}}",
                )
            ],
        ),
        Panel(
            "Rate of thumbs",
            "Thumbs received by version.",
            Unit.PER_SECOND,
            [
                Query(
                    rate("thumbwheel_thumbs_total", "version, arm, value"),
                    "{{version}} {{arm}} {{value}}",
                )
            ],
        ),
        Panel(
            "Share of thumbs up by task",
            "By version. A version may be better at one task and worse at another.",
            Unit.RATIO,
            [Query(_thumbs_up("task_.*"), "{{version}} {{trait}}")],
        ),
        Panel(
            "Share of thumbs up by length",
            "By version and length of the answer: short is below 200 characters, long from 1,000.",
            Unit.RATIO,
            [Query(_thumbs_up("length_.*"), "{{version}} {{trait}}")],
        ),
        Panel(
            "Share of thumbs up by change of the question",
            "By version: enhanced if the enhancer has changed the question.",
            Unit.RATIO,
            [Query(_thumbs_up("question_.*"), "{{version}} {{trait}}")],
        ),
        Panel(
            "Failed requests by version",
            "If only the candidate fails, roll it back.",
            Unit.RATIO,
            [Query(share(TURNS, 'version!="", reason="failed"', "version"), "{{version}}")],
        ),
        Panel(
            "Blocked answers by version",
            "Answers of the model blocked by the guardrail.",
            Unit.RATIO,
            [Query(share(TURNS, 'version!="", reason="output_blocked"', "version"), "{{version}}")],
        ),
    ),
)
# Metrics of both model servers: the predictor, and vLLM with the version as its model name.
SPEED = Row(
    "Generations",
    (
        Panel(
            "Generations",
            "By version and result.",
            Unit.PER_SECOND,
            [Query(rate(GENERATIONS, "version, reason"))],
        ),
        Panel(
            "Tokens",
            "Prompt tokens and completion tokens.",
            Unit.PER_SECOND,
            [Query(rate("thumbwheel_tokens_total", "version, kind"), "{{version}} {{kind}}")],
        ),
        Panel(
            "Time to first text of the model",
            "Measured by the generator.",
            Unit.SECONDS,
            quantiles("thumbwheel_first_text_seconds", "version"),
        ),
        Panel(
            "Requests in the model server",
            "By version.",
            Unit.COUNT,
            [
                Query(
                    "sum by (version) (thumbwheel_predictor_waiting_requests)",
                    "{{version}} waiting",
                ),
                Query(
                    "sum by (version) (thumbwheel_predictor_running_requests)",
                    "{{version}} running",
                ),
                Query("sum by (model_name) (vllm:num_requests_waiting)", "{{model_name}} waiting"),
                Query("sum by (model_name) (vllm:num_requests_running)", "{{model_name}} running"),
            ],
            alert="ModelServerFull.requests",
        ),
        Panel(
            "Time between tokens",
            "Within an answer.",
            Unit.SECONDS,
            [
                *quantiles("thumbwheel_predictor_inter_token_seconds", "version"),
                *quantiles("vllm:inter_token_latency_seconds", "model_name"),
            ],
        ),
        Panel(
            "KV blocks in use",
            "Includes cached prefixes: a full cache is normal.",
            Unit.RATIO,
            [
                Query("max by (version) (thumbwheel_predictor_cache_usage_ratio)", "{{version}}"),
                Query("max by (model_name) (vllm:kv_cache_usage_perc)", "{{model_name}}"),
            ],
        ),
        Panel(
            "Requests to external models",
            "By model and outcome at its endpoint.",
            Unit.PER_SECOND,
            [Query(rate(EXTERNAL, "model, outcome"), "{{model}} {{outcome}}")],
        ),
    ),
)

BOARD = Dashboard(
    "models",
    "models and thumbs",
    "Served versions, their ratings and their speed.",
    (SUMMARY, ROLLOUT, THUMBS, SPEED),
    versions=GENERATIONS,
)
