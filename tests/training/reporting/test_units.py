"""Units of figures in reports, comparisons and pages."""

import math

import pytest

from training.reporting.pages import curves
from training.reporting.stage import report_rows
from training.reporting.units import duration, label, quantity, rate, size
from training.runtime.context import Progress


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "0.25 s"),
        (119, "119 s"),
        (600, "10.0 min"),
        (9000, "2.5 h"),
        (3 * 86_400, "3.0 days"),
    ],
)
def test_durations_have_readable_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (330_000_000, "315 MiB")]
    + [(1.5 * 2**30, "1.5 GiB"), (5000 * 2**40, "5,000 TiB")],
)
def test_sizes_have_readable_units(count: float, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("per_second", "said"), [(12.345, "12.3/s"), (8432.1, "8.43k/s"), (2.5e6, "2.5M/s")]
)
def test_rates_have_readable_units(per_second: float, said: str) -> None:
    assert rate(per_second) == said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("memory_bytes", 2.0**20, "1 MiB"),
        ("bytes", 2048, "2 KiB"),
        ("training_seconds", 60.0, "60 s"),
        ("tokens_per_second", 1000.0, "1k/s"),
        ("bits_per_byte", 2.0, "2"),
        ("parameters", 1_234_567, "1,234,567"),
        ("memory_bytes", None, "unknown"),
        ("memory_bytes", math.nan, "nan"),
        ("is_cut", True, "True"),
    ],
)
def test_unit_follows_the_name(name: str, value: object, said: str) -> None:
    assert quantity(name, value) == said


def test_pages_show_units_in_charts_and_reports() -> None:
    steps = [
        Progress("pretrain", step, 2, {"memory_bytes": step * 2.0**30, "loss": 1.0})
        for step in (1, 2)
    ]
    drawn = {chart.title: chart for chart in curves({"run": steps}).others}
    assert (drawn["memory"].low, drawn["memory"].newest) == ("1 GiB", "2 GiB")
    assert report_rows({"bytes": 2**21})["bytes"] == "2 MiB"
    assert label("held_out_loss") == "held out loss"


def test_chart_of_many_runs_names_the_range_of_the_last_values() -> None:
    runs = {f"run {place}": [Progress("sft", 1, 1, {"loss": place / 2})] for place in range(5)}
    assert curves(runs).first[0].newest == "0 to 2"
    few = dict(list(runs.items())[:2])
    assert curves(few).first[0].newest == "0, 0.5"
