"""Time of `thumbwheel data why` for growing logs.

`python benchmarks/document_log.py [--rows 300000 1000000 3000000] [--repeats 5]`. The document log
is written by the writer of `data build`, the crawl log by that of `data crawl`, both with as many
rows. Each question is a command in a process of its own, start of Python included; the figures are
medians of processor time and of wall time, which depends on other load of the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.corpus.crawl.crawl_log import write_log
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Frontier, Result, Target
from training.corpus.document import Stage
from training.corpus.sources.config import CRAWL_LOG, LATEST_CRAWL, SourceConfig
from training.data_path.config import CorpusConfig, write_settings
from training.data_path.log import LOG, RESULT, LogWriter

ROOT = Path(__file__).resolve().parents[1]
BATCH = 10_000
# Of each hundred rows: kept, duplicate of the row before, dropped by a rule.
KEPT, DUPLICATES = 40, 20


def main() -> None:
    """Write logs of growing size and ask questions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000, 3_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {load:.0f}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder)
            write_corpus(corpus, rows)
            measure(corpus, rows, options.repeats)


def write_corpus(corpus: Path, rows: int) -> None:
    """Write a document log, a crawl log and the settings that lead to the latter."""
    start = time.process_time()
    log = corpus / RESULT / LOG
    with LogWriter(log, rows) as writer:
        for number in range(rows):
            writer.add(row_of(number))
    seconds = time.process_time() - start
    size = sum(file.stat().st_size for file in log.rglob("*.parquet"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{rows:,} rows: {size / 1e6:,.0f} MB, written in {seconds:.0f} processor s,"
        f" peak memory until now {peak / 1e6:,.0f} MB",
        flush=True,
    )
    crawl = corpus / "crawl"
    (crawl / "0001").mkdir(parents=True)
    (crawl / LATEST_CRAWL).symlink_to("0001")
    frontier = Frontier(crawl / "0001")
    for start_number in range(0, rows, BATCH):
        frontier.admit(list(crawled(start_number, min(rows, start_number + BATCH))))
    frontier.commit("", 0)
    write_log(frontier, crawl / LATEST_CRAWL / CRAWL_LOG)
    frontier.close()
    write_settings(CorpusConfig((SourceConfig("web", crawl),)), corpus)


def identifier(number: int) -> str:
    """Return the identifier of a row."""
    return hashlib.sha256(f"id {number}".encode()).hexdigest()[:32]


def url_of(number: int) -> str:
    """Return the URL of a row."""
    return f"https://host{number % 9973}.example/{identifier(number)[:8]}/{number}.html"


def row_of(number: int) -> Mapping[str, Any]:
    """Return a row of the document log."""
    kind = number % 100
    stage, rule, value = Stage.QUALITY, "gopher stop words", "1 (at least 2)"
    if kind < KEPT:
        stage, rule, value = Stage.KEPT, "", ""
    elif kind < KEPT + DUPLICATES:
        stage, rule, value = Stage.NEAR_DUPLICATE, "duplicate", identifier(number // 100 * 100)
    return {
        "id": identifier(number),
        "url": url_of(number),
        "source": "web",
        "licence": "CC-BY-4.0",
        "date": "2026-11-29T04:00:00Z",
        "collection": "",
        "language": "en",
        "size": number % 20_000,
        "stage": stage,
        "rule": rule,
        "value": value,
    }


def crawled(start: int, end: int) -> Iterator[tuple[Target, Result | None]]:
    """Yield URLs with fates; none is in the document log."""
    for number in range(start, end):
        yield Target(f"{url_of(number)}?crawled", 1, url_of(number)), Result(Fate.ROBOTS)


def measure(corpus: Path, rows: int, repeats: int) -> None:
    """Print the times of each kind of question."""
    duplicate = rows // 200 * 100 + KEPT
    questions = {
        "a kept page": url_of(rows // 200 * 100),
        "a duplicate": url_of(duplicate),
        "an identifier": identifier(duplicate),
        "a page of the crawl log only": f"{url_of(duplicate)}?crawled",
        "an unknown page": "https://unknown.example/",
    }
    for name, question in questions.items():
        processor, wall = zip(*(ask(corpus, question) for _ in range(repeats)), strict=True)
        print(
            f"  {name}: {statistics.median(processor):.2f} processor s,"
            f" {statistics.median(wall):.2f} s, slowest {max(wall):.2f} s",
            flush=True,
        )


def ask(corpus: Path, question: str) -> tuple[float, float]:
    """Return processor time and wall time of a command."""
    command = [sys.executable, "-m", "training.corpus", "why", question, "--corpus", str(corpus)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # An unknown page has no entry; each other one has exactly one.
    is_known = "unknown" not in question
    assert done.returncode == int(not is_known), done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    main()
