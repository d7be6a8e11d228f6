"""Growth of `thumbwheel data build` with its input, and with a second worker.

`python -m benchmarks.data_path_growth growth [--gigabytes .3 1 3]`: processor time by phase and
peak memory of all processes, for growing amounts of text, with one worker.
`python -m benchmarks.data_path_growth workers [--gigabytes .3] [--rounds 2]`: the same input with
one worker and with two in turn, after Ray, its workers and their steps have started.

Half of the input are pages in WARC files, the other half texts in JSON lines, of about 10 KB. They
consist of paragraphs of an encyclopedia in random order, and a tenth are copies with one paragraph
replaced. All steps are on, a tokenizer is trained, and shards are written.

Memory is the sum of the proportional set sizes of the processes, four times a second. The processor
time of a phase with two workers counts the busier one, beside that of the main process, so that the
ratio shows how evenly the work is divided also on a busy machine; elapsed time is shown as well.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.near_duplicates import GIGABYTE, MEGABYTE, synthetic
from tests.support.archives import HEAD, gzip_members, page_url, response_record
from tests.support.quality_texts import summaries
from training.cluster.group import ray_cluster
from training.cluster.parts import Workers
from training.corpus.document import Document, Origin, Page
from training.data_path import toolkit
from training.data_path.config import CorpusConfig, read_config
from training.data_path.pipeline import build
from training.runs import Step

PARAGRAPHS = 20
SAMPLE_SECONDS = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
KIBIBYTE = 1024
PAGE = """<!doctype html><html><head><title>Page {number}</title></head><body>
<nav><ul><li><a href="/">Start</a></li><li><a href="/all">All pages</a></li></ul></nav>
<main><article>{paragraphs}</article></main><footer>Imprint</footer></body></html>"""
CONFIG = """[shards]
vocabulary = 8192
[[sources]]
name = "synthetic"
folder = "input"
"""


def write_input(folder: Path, gigabytes: float, file_bytes: int) -> int:
    """Write the files of the input; return the number of records."""
    written = records = 0
    for shard in range(1 << 20):
        if written >= gigabytes * GIGABYTE:
            break
        texts = [text for _, text in synthetic(shard, vocabulary(), file_bytes, PARAGRAPHS)]
        written += sum(len(text.encode()) for text in texts)
        if shard % 2:
            with gzip.open(folder / f"{shard:05}.jsonl.gz", "wt", compresslevel=1) as file:
                for number, text in enumerate(texts, records):
                    file.write(json.dumps({"url": page_url(number), "text": text}) + "\n")
        else:
            with (folder / f"{shard:05}.warc.gz").open("wb") as archive:
                for number, text in enumerate(texts, records):
                    paragraphs = "".join(f"<p>{escape(line)}</p>\n" for line in text.splitlines())
                    page = PAGE.format(number=number, paragraphs=paragraphs)
                    record = response_record(number, page.encode(), HEAD)
                    archive.writelines(gzip_members([record]))
        records += len(texts)
    return records


def vocabulary() -> list[str]:
    """Return the paragraphs of an encyclopedia."""
    return [line for text in summaries("en-us") for line in text.splitlines() if len(line) > 60]


@dataclass
class Phase:
    """Cost of a phase.

    Attributes:
        elapsed: seconds.
        processor: seconds of all processes.
        critical: seconds of the main process and of the busiest worker.
    """

    elapsed: float = 0.0
    processor: float = 0.0
    critical: float = 0.0


class Meter:
    """Display that measures each phase of a build."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self.peak = 0
        self._began, self._before = 0.0, dict[int, float]()

    def begin(self, step: Step) -> None:
        self._began, self._before = time.monotonic(), processor_times()

    def move(self, step: Step) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self, step: Step) -> None:
        after = processor_times()
        spent = {group: after[group] - self._before.get(group, 0.0) for group in after}
        workers = [seconds for group, seconds in spent.items() if group]
        total = sum(spent.values())
        self.phases[step.name] = Phase(
            time.monotonic() - self._began,
            total,
            total - sum(workers) + max(workers, default=0.0),
        )

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Watch the memory inside the block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                self.peak = max(self.peak, sum(map(proportional_bytes, processes())))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def processes() -> dict[int, tuple[int, float]]:
    """Return parent and processor time, with that of ended children, of this process and all below.

    Services of Ray are included.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # The name, which may contain spaces, ends with the last parenthesis.
                values = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = (int(values[1]), sum(map(int, values[11:15])) / TICKS)
    below = {os.getpid()}
    while more := {pid for pid, (parent, _) in found.items() if parent in below} - below:
        below |= more
    return {pid: found[pid] for pid in below if pid in found}


def processor_times() -> dict[int, float]:
    """Return processor times by worker of Ray, each with its children; 0 stands for the rest."""
    tree = processes()
    times: dict[int, float] = {}
    for pid, (_, seconds) in tree.items():
        group = pid
        while group in tree and not is_worker(group):
            group = tree[group][0]
        group = group if group in tree else 0
        times[group] = times.get(group, 0.0) + seconds
    return times


def is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, shared pages divided among their users; 0 if it ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("Pss:"))


def start_steps(given: tuple[CorpusConfig, toolkit.Data]) -> None:
    """Load what a worker needs before its first file."""
    steps = toolkit.clean_steps(*given)
    steps.url("http://site.example/")
    document: Any = steps.extract(Page(Origin("0"), b"<p>A first page.</p>", "text/html"))
    for _, step in steps.later:
        step(Document(document.origin, document.text, "en"))


def measure(options: argparse.Namespace) -> None:
    """Build the corpus in a folder and print its figures as JSON."""
    config = read_config(options.folder / "corpus.toml")
    meter = Meter()
    with ray_cluster(options.workers if options.workers > 1 else 0):
        with Workers(options.workers) as pool:
            data = toolkit.prepare(config, options.folder / "corpus")
            list(pool.each(start_steps, [(config, data)] * options.workers))
        with meter.sampled():
            summary = build(config, options.folder / "corpus", options.workers, meter)
    figures = {name: vars(phase) for name, phase in meter.phases.items()}
    print(json.dumps({"phases": figures, "peak": meter.peak, "kept": summary.kept}))


def measured(folder: Path, workers: int) -> tuple[dict[str, Phase], dict[str, Any]]:
    """Run `measure` in a new process."""
    command = [sys.executable, "-m", "benchmarks.data_path_growth", "measure"]
    command += ["--workers", str(workers), "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures = json.loads(done.stdout)
    return {name: Phase(**values) for name, values in figures["phases"].items()}, figures


@contextmanager
def corpus(gigabytes: float, options: argparse.Namespace) -> Iterator[Path]:
    """Provide a folder with an input and settings."""
    with TemporaryDirectory(prefix="data-path-") as work:
        folder = Path(work)
        (folder / "input").mkdir()
        (folder / "corpus.toml").write_text(CONFIG)
        records = write_input(folder / "input", gigabytes, options.file_megabytes * MEGABYTE)
        print(f"{gigabytes:g} GB of text, {records:,} records", flush=True)
        yield folder


def show(phases: dict[str, Phase], figures: dict[str, Any], gigabytes: float) -> None:
    for name, phase in phases.items():
        print(
            f"  {name}: {phase.processor:.1f} s, {gigabytes * GIGABYTE / MEGABYTE:.0f} MB at"
            f" {gigabytes * GIGABYTE / MEGABYTE / max(0.1, phase.processor):.1f} MB/s;"
            f" elapsed {phase.elapsed:.0f} s"
        )
    total = sum(phase.processor for phase in phases.values())
    print(
        f"  all: {total:.0f} s, {total / gigabytes:.0f} s/GB; {figures['kept']:,} documents kept;"
        f" peak {figures['peak'] / MEGABYTE:.0f} MB; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def growth(options: argparse.Namespace) -> None:
    """Measure each size with one worker."""
    for gigabytes in options.gigabytes:
        with corpus(gigabytes, options) as folder:
            show(*measured(folder, 1), gigabytes)


def workers(options: argparse.Namespace) -> None:
    """Alternate between one worker and two."""
    with corpus(options.gigabytes[0], options) as folder:
        for _ in range(options.rounds):
            results = []
            for count in (1, 2):
                shutil.rmtree(folder / "corpus", ignore_errors=True)
                phases, figures = measured(folder, count)
                print(f" {count} workers:")
                show(phases, figures, options.gigabytes[0])
                results.append(phases)
            one, two = results
            for name in one:
                print(
                    f"  {name}: {one[name].critical / max(0.01, two[name].critical):.2f} times by"
                    f" processor time, {one[name].elapsed / max(0.01, two[name].elapsed):.2f} by"
                    " elapsed time"
                )
            ratios = [
                sum(getattr(phase, unit) for phase in one.values())
                / sum(getattr(phase, unit) for phase in two.values())
                for unit in ("critical", "elapsed")
            ]
            print(
                f" 1 to 2 workers: {ratios[0]:.2f} times by processor time, {ratios[1]:.2f} by"
                " elapsed time",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_path_growth")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.3])
    parser.add_argument("--file-megabytes", type=int, default=10, help="text of an input file")
    parser.add_argument("--rounds", type=int, default=2, help="workers")
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    CASES[options.case](options)


CASES = {"growth": growth, "workers": workers, "measure": measure}

if __name__ == "__main__":
    main()
