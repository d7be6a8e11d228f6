"""Figures as text for people, in the unit that their name ends with.

`memory_bytes` is shown in KiB to TiB, `elapsed_seconds` in s to days, `tokens_per_second` in
thousands. The files of a run (progress.jsonl, manifest.json) have the exact values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

SIZES = ("KiB", "MiB", "GiB", "TiB")
THOUSANDS = ("", "k", "M", "G")
BYTES, SECONDS, RATE = "bytes", "seconds", "_per_second"


def quantity(name: str, value: object) -> str:
    """Format the value of a figure in the unit of its name; other values as `figure` does."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return figure(value)
    if name.endswith(BYTES):
        return size(value)
    if name.endswith(SECONDS):
        return duration(value)
    if name.endswith(RATE):
        return rate(value)
    return f"{value:,}" if isinstance(value, int) else figure(value)


def label(name: str) -> str:
    """Return the name of a figure in words, without the unit that its value shows."""
    bare = name.removesuffix(f"_{BYTES}").removesuffix(f"_{SECONDS}")
    return bare.replace("_", " ")


def figure(value: object) -> str:
    """Format a number; format a nested mapping as "name value, name value"."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {figure(item)}" for name, item in value.items()
        )
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Format a duration in s, min, h or days."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.1f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def size(count: float) -> str:
    """Format a number of bytes with three digits, in bytes or powers of 1024."""
    if count < 1024:
        return f"{count:.0f} bytes"
    power = min(int(math.log2(count) // 10), len(SIZES))
    return f"{_three_digits(count / 1024**power)} {SIZES[power - 1]}"


def rate(per_second: float) -> str:
    """Format a rate with three digits and k, M or G for powers of 1000: "8.43k/s"."""
    power = 0
    while per_second >= 1000 and power < len(THOUSANDS) - 1:
        per_second, power = per_second / 1000, power + 1
    return f"{_three_digits(per_second)}{THOUSANDS[power]}/s"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
