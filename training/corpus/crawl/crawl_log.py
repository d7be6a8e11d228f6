"""The crawl log: a line of JSON for each URL, sorted by the keys of the URLs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from durable_files.files import publish
from training.corpus.crawl.frontier import Frontier
from training.corpus.crawl.urls import canonical_url, url_key


def write_log(frontier: Frontier, file: Path) -> None:
    """Write the log, whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        for row in frontier.log_rows():
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    publish(partial, file)


def find_row(file: Path, url: str) -> dict[str, Any] | None:
    """Return the row of a URL, None without; a binary search, so the size hardly matters.

    Args:
        url: URL in any spelling; the log has canonical ones.
    """
    wanted = canonical_url(url) or url
    key = url_key(wanted)
    # The line begins at an offset from `low` up to, but not including, `high`.
    low, high = 0, file.stat().st_size
    with file.open("rb") as lines:
        while low < high:
            middle = (low + high) // 2
            lines.seek(max(middle - 1, 0))
            if middle:
                lines.readline()  # up to the next beginning of a line
            start = lines.tell()
            line = lines.readline() if start < high else b""
            if not line:
                high = middle
                continue
            row: dict[str, Any] = json.loads(line)
            if row["url"] == wanted:
                return row
            if url_key(row["url"]) < key:
                low = start + len(line)
            else:
                high = middle
    return None
