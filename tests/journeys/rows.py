"""Rows of events in the lake."""

import time

from tests.journeys.stack import Stack


def wait_for_row(stack: Stack, column: str, value: str) -> None:
    """Wait until a Parquet object of the store contains the row."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any(row.get(column) == value for row in stack.rows()):
            return
        time.sleep(0.2)
    raise AssertionError(f"{column} {value} is in no object")
