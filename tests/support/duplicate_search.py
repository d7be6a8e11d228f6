"""Search for duplicates in JSON lines by several processes, for kills and benchmarks.

Usage: `python -m tests.support.duplicate_search FOLDER WORKERS`. FOLDER has texts/*.jsonl with `id`
and `text`. Existing files of rows are used again. Prints processor time in
seconds and peak memory in bytes, of the workers and of the search, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from training.corpus.duplicates.clusters import MEMORY_BYTES, find_duplicates_in
from training.corpus.duplicates.rows import rows_of, write_rows

RESULT = "duplicates.jsonl"


def write_shard(rows: Path, shard: Path) -> Path:
    """Write the rows of a file of texts if missing, and return their file."""
    target = rows / f"{shard.stem}.rows"
    if not target.exists():
        write_rows(target, rows_of(read_texts(shard)))
    return target


def read_texts(shard: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text of each line."""
    with shard.open(encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            yield document["id"], document["text"]


def search(folder: Path, workers: int, memory_bytes: int = MEMORY_BYTES) -> None:
    """Write the rows of all shards, then the duplicates."""
    rows = folder / "rows"
    rows.mkdir(exist_ok=True)
    shards = sorted((folder / "texts").glob("*.jsonl"))
    if workers == 1:
        files = [write_shard(rows, shard) for shard in shards]
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            files = pool.map(partial(write_shard, rows), shards)
    partial_result = folder / f"{RESULT}.partial"
    with partial_result.open("w") as out:
        for duplicate in find_duplicates_in(files, folder / "work", memory_bytes):
            out.write(json.dumps(duplicate) + "\n")
    partial_result.replace(folder / RESULT)


def main() -> None:
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    search(folder, workers)
    figures = {}
    for name, who in (("search", resource.RUSAGE_SELF), ("workers", resource.RUSAGE_CHILDREN)):
        usage = resource.getrusage(who)
        figures[name] = {
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
