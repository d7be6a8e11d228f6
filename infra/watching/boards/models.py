"""Models and thumbs: which version answers whom, what people think of it, and whether the model
server keeps up.
"""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, quantiles, rate, share

GENERATIONS, TURNS = "thumbwheel_generations_total", "thumbwheel_turns_total"
EXPERIMENT = "thumbwheel_experiment"

ROLLOUT = Row(
    "Which version answers",
    (
        Panel(
            "Share of the users",
            "A candidate's share is drawn by user, so a user stays with a version.",
            Unit.RATIO,
            [Query("max by (version) (thumbwheel_version_share)", "{{version}}")],
        ),
        Panel(
            "Versions that answer",
            "0: it is wanted and does not answer.",
            Unit.COUNT,
            [Query("min by (version) (thumbwheel_version_ready)", "{{version}}")],
        ),
        Panel(
            "Age of what is known of the rollout",
            "It grows while the rollout's store is away.",
            Unit.SECONDS,
            [Query("time() - thumbwheel_rollout_read_time_seconds", "{{instance}}")],
        ),
    ),
)
THUMBS = Row(
    "What people think",
    (
        Panel(
            "Thumbs up of all thumbs",
            "Standing thumbs, with the interval that holds at every look: overlapping intervals say nothing yet.",
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
            "Standing thumbs and users",
            "How much there is to judge by.",
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
            "Thumbs given",
            "As they come in, by version.",
            Unit.PER_SECOND,
            [
                Query(
                    rate("thumbwheel_thumbs_total", "version, arm, value"),
                    "{{version}} {{arm}} {{value}}",
                )
            ],
        ),
        Panel(
            "Failed turns by version",
            "A candidate alone: roll it back.",
            Unit.RATIO,
            [Query(share(TURNS, 'version!="", reason="failed"', "version"), "{{version}}")],
        ),
        Panel(
            "Blocked answers by version",
            "What the guard took back of what the model said.",
            Unit.RATIO,
            [Query(share(TURNS, 'version!="", reason="output_blocked"', "version"), "{{version}}")],
        ),
    ),
)
# Of the model server there is: our own, or vLLM, which names a version as the model that it serves.
SPEED = Row(
    "Generations",
    (
        Panel(
            "Generations",
            "By version and end.",
            Unit.PER_SECOND,
            [Query(rate(GENERATIONS, "version, reason"))],
        ),
        Panel(
            "Tokens",
            "Read (prompt) and written (completion).",
            Unit.PER_SECOND,
            [Query(rate("thumbwheel_tokens_total", "version, kind"), "{{version}} {{kind}}")],
        ),
        Panel(
            "Time to the model's first text",
            "As the generator sees it.",
            Unit.SECONDS,
            quantiles("thumbwheel_first_text_seconds", "version"),
        ),
        Panel(
            "Waiting and running in the model server",
            "Waiting for long: the alert ModelServerFull.",
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
        ),
        Panel(
            "Time between two tokens",
            "Of one answer.",
            Unit.SECONDS,
            [
                *quantiles("thumbwheel_predictor_inter_token_seconds", "version"),
                *quantiles("vllm:inter_token_latency_seconds", "model_name"),
            ],
        ),
        Panel(
            "KV blocks in use",
            "Cached prefixes included: full is no fault by itself.",
            Unit.RATIO,
            [
                Query("max by (version) (thumbwheel_predictor_cache_usage_ratio)", "{{version}}"),
                Query("max by (model_name) (vllm:kv_cache_usage_perc)", "{{model_name}}"),
            ],
        ),
    ),
)

BOARD = Dashboard(
    "models",
    "models and thumbs",
    "Which version answers, what people think of it, how fast it is.",
    (ROLLOUT, THUMBS, SPEED),
)
