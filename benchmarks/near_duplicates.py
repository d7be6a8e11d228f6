"""Speed and memory of the search for near duplicates, and its quality on labelled pairs.

`python benchmarks/near_duplicates.py peer|growth|documents|quality`.

peer: documents a second against datatrove's four stages on pages of manuals, in alternating rounds
of processor time on one core, and the agreement of both results beside that of two seeds.
growth: processor time and peak memory for growing amounts of text (`--gigabytes .3 1 3 10`). The
texts are lines of the manuals in random order; a tenth of them are copies with one line replaced.
documents: the search alone for growing numbers of documents (`--documents 1000000 3000000`) with
random signatures. A tenth of them differ from another one in a few minima.
quality: precision, recall and F1 on pages of three versions of LLVM's manual. Two versions of a
page are a pair of near duplicates, two different pages are none.
"""

import argparse
import itertools
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from resiliparse.parse.html import HTMLTree

from infra.install import manual_versions
from tests.support.near_duplicates import (
    agreement,
    datatrove_clusters,
    manual_pages,
    our_clusters,
)
from training.corpus.duplicates.clusters import find_duplicates_in
from training.corpus.duplicates.exact import digest
from training.corpus.duplicates.minhash import (
    FINEWEB,
    MinHashConfig,
    band_keys,
    estimated_similarity,
    jaccard,
    signature_matrix,
)
from training.corpus.duplicates.rows import Row, order_key, row_dtype, rows_of, write_rows

SEEDS = range(1, 11)
LEAST_WORDS = 50
LINES = 12
COPIES = 0.1
BATCH = 10_000
SHARD_BYTES = 50_000_000
GIGABYTE = 1_000_000_000
MEGABYTE = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--documents", type=int, nargs="+", default=[350_000, 3_500_000])
    parser.add_argument("--every", type=int, default=4, help="peer: each n-th page")
    parser.add_argument("--rounds", type=int, default=3, help="peer")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case not in SIDES:
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores,"
            f" load {os.getloadavg()[0]:.1f}"
        )
    CASES[options.case](options)


def peer(options: argparse.Namespace) -> None:
    """Alternate with datatrove on the same pages."""
    pages = manual_pages(options.every)
    size = sum(len(text.encode()) for _, text in pages) / MEGABYTE
    print(f"{len(pages):,} pages, {size:.0f} MB")
    ratios = []
    for seed in range(1, options.rounds + 1):
        with TemporaryDirectory() as folder:
            theirs = datatrove_clusters(pages, Path(folder) / "datatrove")
            ours = our_clusters(pages, Path(folder) / "ours", seed)
            other = our_clusters(pages, Path(folder) / "ours", seed + options.rounds)
        ratios.append(theirs.cpu_seconds / ours.cpu_seconds)
        print(
            f"round {seed}: ours {len(pages) / ours.cpu_seconds:,.0f} documents/s, datatrove"
            f" {len(pages) / theirs.cpu_seconds:,.0f}, ratio {ratios[-1]:.1f}; removed"
            f" {len(ours.removed)} and {len(theirs.removed)}; in a cluster of the other"
            f" {agreement(ours, theirs):.1%} and {agreement(theirs, ours):.1%}; two seeds"
            f" {agreement(ours, other):.1%} and {agreement(other, ours):.1%}"
        )
    print(f"ratio, median of {options.rounds}: {statistics.median(ratios):.1f}")


def growth(options: argparse.Namespace) -> None:
    """Measure each size in processes of their own."""
    for gigabytes in options.gigabytes:
        with TemporaryDirectory(dir=Path.cwd()) as folder:
            figures = [side(name, gigabytes, Path(folder)) for name in SIDES]
        rows, search = figures
        print(
            f"{gigabytes:g} GB, {search['documents']:,} documents, {search['duplicates']:,}"
            f" duplicates: rows {rows['seconds']:.0f} s"
            f" ({gigabytes * GIGABYTE / MEGABYTE / rows['seconds']:.0f} MB/s, peak"
            f" {rows['peak'] / MEGABYTE:.0f} MB), search {search['seconds']:.1f} s"
            f" (peak {search['peak'] / MEGABYTE:.0f} MB);"
            f" {(rows['seconds'] + search['seconds']) / gigabytes:.1f} s/GB",
            flush=True,
        )


def side(name: str, gigabytes: float, folder: Path) -> dict[str, float]:
    """Run a part of `growth` in a new process and return its figures."""
    command = [sys.executable, __file__, name, "--folder", str(folder)]
    command += ["--gigabytes", str(gigabytes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def documents(options: argparse.Namespace) -> None:
    """Measure the search alone for each number of documents."""
    for count in options.documents:
        with TemporaryDirectory(dir=Path.cwd()) as folder:
            write_rows(Path(folder) / "rows", random_rows(count))
            figures = side("search", 0, Path(folder))
        print(
            f"{count:,} documents, {figures['duplicates']:,} duplicates:"
            f" {figures['seconds']:.1f} s, {figures['seconds'] / count * MEGABYTE:.2f} s a million,"
            f" peak {figures['peak'] / MEGABYTE:.0f} MB",
            flush=True,
        )


def random_rows(count: int) -> Iterator[Row]:
    """Yield rows with random ids, digests and signatures."""
    generator = np.random.default_rng(1)
    for start in range(0, count, BATCH):
        shape = (min(BATCH, count - start), FINEWEB.hashes)
        signatures = generator.integers(0, 2**32, size=shape, dtype=np.uint32)
        copies = np.flatnonzero(generator.random(shape[0] - 1) < COPIES) + 1
        signatures[copies] = signatures[copies - 1]
        signatures[copies, generator.integers(0, shape[1], size=len(copies))] = 0
        ids = generator.bytes(16 * shape[0])
        for place, signature in enumerate(signatures):
            id = ids[16 * place : 16 * place + 16]
            yield Row(id.hex(), order_key(id.hex()), id, signature)


def write_all_rows(options: argparse.Namespace) -> None:
    """Write files of rows; the time of making texts does not count."""
    seconds = 0.0
    written = 0
    shard = 0
    while written < options.gigabytes[0] * GIGABYTE:
        documents = list(synthetic(shard, manual_lines(), SHARD_BYTES))
        written += sum(len(text.encode()) for _, text in documents)
        start = time.process_time()
        write_rows(options.folder / f"{shard:05d}", rows_of(documents))
        seconds += time.process_time() - start
        shard += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def search_all(options: argparse.Namespace) -> None:
    """Search the files of rows."""
    files = sorted(options.folder.iterdir())
    count = sum(file.stat().st_size for file in files) // row_dtype(FINEWEB).itemsize
    start = time.process_time()
    duplicates = sum(1 for _ in find_duplicates_in(files, options.folder / "work"))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({"seconds": seconds, "peak": peak, "documents": count, "duplicates": duplicates})
    )


@cache
def manual_lines() -> list[str]:
    """Return long lines of the manuals."""
    pages = itertools.islice(manual_pages(every=8), 600)
    return [line for _, text in pages for line in text.splitlines() if len(line) > 60]


def synthetic(
    shard: int, vocabulary: Sequence[str], size: int, count: int = LINES
) -> Iterator[tuple[str, str]]:
    """Yield documents of one shard with different ids; a tenth of them are near duplicates.

    Args:
        vocabulary: lines of which each document draws `count`.
        size: characters of the shard.
    """
    generator = random.Random(shard)
    lines: list[str] = []
    for number in itertools.count():
        if size <= 0:
            return
        if lines and generator.random() < COPIES:
            lines = [*lines]
            lines[generator.randrange(count)] = generator.choice(vocabulary)
        else:
            lines = generator.choices(vocabulary, k=count)
        text = "\n".join(lines)
        size -= len(text)
        yield sha256(f"{shard} {number}".encode()).hexdigest()[:32], text


def quality(_options: argparse.Namespace) -> None:
    """Compare candidates with labels, for several seeds and least similarities."""
    root = manual_versions.install()
    # Generated pages of AMD's instructions are a template with few words each.
    pages = [
        (version, str(page.relative_to(root / str(version))), text)
        for version in manual_versions.VERSIONS
        for page in sorted((root / str(version)).rglob("*.html"))
        if page.parent.name != "AMDGPU" and len((text := page_body(page)).split()) >= LEAST_WORDS
    ]
    pairs = np.array(list(itertools.combinations(range(len(pages)), 2)))
    names = np.array([name for _, name, _ in pages])
    same_page = names[pairs[:, 0]] == names[pairs[:, 1]]
    texts = [text for *_, text in pages]
    digests = np.array([digest(text).hex() for text in texts])
    pairs, same_page = (
        each[digests[pairs[:, 0]] != digests[pairs[:, 1]]] for each in (pairs, same_page)
    )
    print(f"{len(pages)} pages, {same_page.sum()} near duplicates, {(~same_page).sum():,} others")
    figures: dict[str, list[tuple[float, float, float, float]]] = {}
    for seed in SEEDS:
        config = MinHashConfig(seed=seed)
        matrix = signature_matrix(texts, config)
        keys = band_keys(matrix, config)
        shared = np.concatenate(
            [
                (keys[part[:, 0]] == keys[part[:, 1]]).any(axis=1)
                for part in np.array_split(pairs, 50)
            ]
        )
        found, labels = pairs[shared], same_page[shared]
        estimates = estimated_similarity(matrix[found[:, 0]], matrix[found[:, 1]])
        exact = np.array([jaccard(texts[one], texts[other]) for one, other in found])
        for name, similarities in (("estimated", estimates), ("exact", exact)):
            for least in (0.0, 0.7, 0.75, 0.8):
                joined = similarities >= least
                true = int((joined & labels).sum())
                precision, recall = true / int(joined.sum()), true / int(same_page.sum())
                score = 2 * precision * recall / (precision + recall)
                wrong = int((joined & ~labels).sum()) + int(same_page.sum()) - true
                others = int((~same_page).sum()) - int((joined & ~labels).sum())
                macro = (score + 2 * others / (2 * others + wrong)) / 2
                key = f"{name} similarity >= {least}" if least else "all candidates"
                figures.setdefault(key, []).append((precision, recall, score, macro))
    for name, rounds in figures.items():
        precision, recall, score, macro = np.mean(rounds, axis=0)
        print(
            f"{name}: precision {precision:.3f}, recall {recall:.3f}, F1 {score:.3f},"
            f" macro F1 {macro:.3f}"
        )
    labelled = [jaccard(texts[one], texts[other]) for one, other in pairs[same_page]]
    quartiles = ", ".join(f"{value:.2f}" for value in np.percentile(labelled, [0, 25, 50, 75]))
    print(f"similarity of the near duplicates, minimum and quartiles: {quartiles}")


def page_body(page: Path) -> str:
    """Return the text of a page of Sphinx without navigation."""
    document = HTMLTree.parse(page.read_text("utf-8", "replace")).document
    body = document.query_selector("div.body") if document else None
    return str(body.text) if body else ""


SIDES = {"rows": write_all_rows, "search": search_all}
CASES = {"peer": peer, "growth": growth, "documents": documents, "quality": quality, **SIDES}

if __name__ == "__main__":
    main()
