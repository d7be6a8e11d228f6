"""Training's loop: what the last turn came to, and the figures that its gate looked at."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit

LOOP = "thumbwheel_loop"

TURN = Row(
    "The last turn",
    (
        Panel(
            "Result",
            "What it came to; running while it runs.",
            Unit.COUNT,
            [Query(f"max by (recipe, result) ({LOOP}_turn_result) == 1", "{{recipe}}: {{result}}")],
            now=True,
        ),
        Panel(
            "Since it last wrote",
            "Hours without a word while it runs: the alert LoopStands.",
            Unit.SECONDS,
            [Query(f"time() - max({LOOP}_updated_time_seconds)", "ago")],
            now=True,
        ),
        Panel(
            "Runs now",
            "1 while a turn runs.",
            Unit.COUNT,
            [Query(f"max({LOOP}_running)", "running")],
            now=True,
        ),
        Panel(
            "Step's progress",
            "0 to 1 for each step.",
            Unit.RATIO,
            [Query(f"max by (step) ({LOOP}_step_progress_ratio)", "{{step}}")],
            width=12,
        ),
        Panel(
            "Results over time",
            "Which result stood when.",
            Unit.COUNT,
            [Query(f"max by (recipe, result) ({LOOP}_turn_result)", "{{recipe}} {{result}}")],
            width=12,
        ),
    ),
)
GATE = Row(
    "What the gate saw",
    (
        Panel(
            "Checks",
            "Accuracy of the reward model, win rate, KL and the others, each in its own unit.",
            Unit.COUNT,
            [Query(f"max by (check) ({LOOP}_check_value)", "{{check}}")],
            width=12,
        ),
        Panel(
            "Checks that passed",
            "One 0 closes the gate.",
            Unit.COUNT,
            [Query(f"min by (check) ({LOOP}_check_passed)", "{{check}}")],
            width=12,
        ),
    ),
)

BOARD = Dashboard(
    "training", "training", "What the last turn of the loop came to, and why.", (TURN, GATE)
)
