"""Training loop: result of the last run and the figures of its gate."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, figure

LOOP = "thumbwheel_loop"

SUMMARY = Row(
    "Summary",
    (
        Panel(
            "Result",
            "Result of the last run. Held: too little data; collect more feedback and run again.",
            Unit.COUNT,
            [Query(f"max by (recipe, result) ({LOOP}_turn_result) == 1", "{{recipe}}: {{result}}")],
            now=True,
        ),
        figure(
            "Failed",
            "1: the last run failed.",
            Unit.COUNT,
            f'max({LOOP}_turn_result{{result="failed"}})',
            red_from=1,
        ),
        figure(
            "Running",
            "1 during a run.",
            Unit.COUNT,
            f"max({LOOP}_running)",
        ),
        figure(
            "Time since the last update",
            "Of a running run; 0 without one.",
            Unit.SECONDS,
            f"(time() - max({LOOP}_updated_time_seconds)) * max({LOOP}_running)",
            alert="LoopStalled.seconds",
        ),
        figure(
            "Failed checks of the gate",
            "A single one refuses the candidate.",
            Unit.COUNT,
            f"sum(1 - min by (check) ({LOOP}_check_passed))",
            red_from=1,
        ),
    ),
)
RUN = Row(
    "Last run",
    (
        Panel(
            "Progress of steps",
            "0 to 1 for each step.",
            Unit.RATIO,
            [Query(f"max by (step) ({LOOP}_step_progress_ratio)", "{{step}}")],
            width=12,
        ),
        Panel(
            "Results over time",
            "Result of the last run at each time.",
            Unit.COUNT,
            [Query(f"max by (recipe, result) ({LOOP}_turn_result)", "{{recipe}} {{result}}")],
            width=12,
        ),
    ),
)
GATE = Row(
    "Gate",
    (
        Panel(
            "Checks",
            "Accuracy of the reward model, win rate, KL and the others, each in its own unit.",
            Unit.COUNT,
            [Query(f"max by (check) ({LOOP}_check_value)", "{{check}}")],
            width=12,
        ),
        Panel(
            "Passed checks",
            "A single 0 closes the gate.",
            Unit.COUNT,
            [Query(f"min by (check) ({LOOP}_check_passed)", "{{check}}")],
            width=12,
        ),
    ),
)

BOARD = Dashboard(
    "training",
    "training",
    "Result of the last run of the loop and its reasons.",
    (SUMMARY, RUN, GATE),
)
