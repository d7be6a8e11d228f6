"""Evaluation: scores of versions on benchmarks and probes."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, figure

SCORE = "thumbwheel_evaluation_score"

SUMMARY = Row(
    "Summary",
    (
        figure(
            "Evaluated versions",
            "Versions with at least one score.",
            Unit.COUNT,
            f"count(count by (version) ({SCORE}))",
        ),
        figure(
            "Tasks",
            "Benchmarks and probes with at least one score.",
            Unit.COUNT,
            f"count(count by (task) ({SCORE}))",
        ),
        figure(
            "Fewest items",
            "Of all scores. Few items make large standard errors.",
            Unit.COUNT,
            "min(thumbwheel_evaluation_items)",
        ),
        figure(
            "Largest standard error",
            "Of all scores.",
            Unit.COUNT,
            f"max({SCORE}_error)",
        ),
    ),
)
SCORES = Row(
    "Scores by version",
    (
        Panel(
            "Scores",
            "Last score of the ten newest evaluated versions, each in the unit of its metric. "
            "Only scores with the same items can be compared; the gate checks this.",
            Unit.COUNT,
            [Query(f"max by (task, version) ({SCORE})", "{{task}} {{version}}")],
            width=12,
        ),
        Panel(
            "Standard errors",
            "A difference below two standard errors is no evidence.",
            Unit.COUNT,
            [Query(f"max by (task, version) ({SCORE}_error)", "{{task}} {{version}}")],
            width=12,
        ),
        Panel(
            "Items",
            "Number of items behind each score; a quick evaluation has 100 per task.",
            Unit.COUNT,
            [Query("max by (task, version) (thumbwheel_evaluation_items)", "{{task}} {{version}}")],
            width=12,
        ),
    ),
)

BOARD = Dashboard(
    "evaluation",
    "evaluation",
    "Scores of versions on benchmarks and probes.",
    (SUMMARY, SCORES),
    versions=SCORE,
)
