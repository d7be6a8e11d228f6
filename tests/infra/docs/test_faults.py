"""Page of the fault scenarios: parsing of docstrings and properties, choice of the last run."""

from dataclasses import replace
from pathlib import Path

from infra.docs.faults import Outcome, add, outcome, page, read, subject

ONE = Outcome(
    ("F4",),
    "Kafka is down.",
    "tests/faults/test_f04.py::test[5]",
    2,
    {},
    1.0,
    "2026-11-25 15:00",
    "abc",
    "2 cores",
)


def test_docstring_names_scenarios_and_fault() -> None:
    assert subject("F4: Kafka is down\nat the start. All goes on.") == (
        ("F4",),
        "Kafka is down at the start.",
    )
    assert subject("F11 and F12: one key.") == (("F11", "F12"), "one key.")
    assert subject("R1, F42: a peer is stopped.") == (("R1", "F42"), "a peer is stopped.")
    assert subject("Two generators share a rollout.") is None


def test_recorded_properties_become_figures_and_fault_count() -> None:
    one = outcome("F4: Kafka is down.", "t", [("fired", 3), ("ack_p99_ms", 4.5)], 1.23)
    assert one is not None
    assert (one.fired, one.figures, one.seconds) == (3, {"ack_p99_ms": 4.5}, 1.2)
    assert "cores" in one.machine


def test_last_run_of_a_test_counts(tmp_path: Path) -> None:
    file = tmp_path / "faults.jsonl"
    assert read(file) == []
    for one in (ONE, replace(ONE, test="another"), replace(ONE, fired=5)):
        add(one, file)
    assert sorted((one.test, one.fired) for one in read(file)) == [("another", 2), (ONE.test, 5)]


def test_scenario_is_a_row_for_all_variants() -> None:
    short, long = (
        replace(ONE, figures={"ack_ms": 4}),
        replace(ONE, test="long", figures={"ack_ms": [3, 9], "disk": "real"}),
    )
    (row,) = [line for line in page([short, long]).splitlines() if line.startswith("| F4 ")]
    assert (
        row == "| F4 | Kafka is down. | 2 | 4 | ack ms 3 to 9; disk real | 2026-11-25 15:00, abc |"
    )


def test_scenarios_are_sorted_and_unmeasured_figures_omitted() -> None:
    text = page(
        [
            replace(ONE, scenarios=("F10",), fired=0),
            replace(ONE, scenarios=("F9",)),
            replace(ONE, scenarios=("D3",)),
        ]
    )
    rows = [line for line in text.splitlines() if line.startswith(("| F", "| D"))]
    assert [row.split()[1] for row in rows] == ["D3", "F9", "F10"]
    assert rows[2] == "| F10 | Kafka is down. | 1 |  |  | 2026-11-25 15:00, abc |"
