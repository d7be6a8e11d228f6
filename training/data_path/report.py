"""Report page: funnel, languages, lengths, hosts, tokenizers, cost by stage, dropped examples."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from training.corpus.block_sample import take_sample
from training.corpus.document import DUPLICATE_STAGES, Document, Stage
from training.corpus.tokenizers import HELD_OUT_SHARE, LEARNED_UNITS, Comparison, compare
from training.data_path.clean import KIBIBYTE, PartFigures
from training.data_path.finish import document_of
from training.data_path.log import LOG, name_of
from training.data_path.summary import Summary
from training.data_path.tables import read_rows
from training.reporting.pages import write_page
from training.reporting.progress import Display
from training.runs import Step
from training.tokenization.byte_pairs import TOKENIZER
from training.tokenization.comparison import COLUMNS, rows
from training.tokenization.learning import TokenizerConfig
from training.tokenization.published import open_published, rank_file
from training.tokenization.text_tokenizer import open_tokenizer

TEMPLATE = "corpus.html.jinja"
SHOWN_HOSTS = 20
UNITS = ("B", "kB", "MB", "GB", "TB")
# Published encodings to compare with, if their rank files are installed.
ENCODINGS = ("o200k_base", "cl100k_base")
SAMPLED_CHARACTERS = 20_000_000
SAMPLE_BYTES = 10_000_000
# Below, the figures say little, and opening the encodings would take longer than the build.
MIN_SAMPLE_BYTES = 100_000


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        share: of the largest value, 0 to 1.
    """

    name: str
    value: str
    share: float
    note: str = ""


@dataclass(frozen=True)
class PhaseCost:
    """Cost of a phase, as far as the command ran it that wrote the report.

    Attributes:
        seconds: elapsed time, in which other workers may have worked as well.
        largest_bytes: highest resident memory of the main process so far.
    """

    name: str
    seconds: float
    largest_bytes: int


class PhaseCosts:
    """Display that notes the cost of each phase and passes everything on to another display."""

    def __init__(self, shown: Display) -> None:
        self._shown = shown
        self._began = 0.0
        self.phases: list[PhaseCost] = []
        self.move, self.say = shown.move, shown.say

    def begin(self, step: Step) -> None:
        """Start the clock of a phase."""
        self._began = time.monotonic()
        self._shown.begin(step)

    def end(self, step: Step) -> None:
        """Note the cost of a phase."""
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
        self.phases.append(PhaseCost(step.name, time.monotonic() - self._began, largest))
        self._shown.end(step)


def write_report(
    path: Path,
    name: str,
    summary: Summary,
    parts: Collection[PartFigures],
    compared: Comparison,
    phases: Sequence[PhaseCost],
) -> Path:
    """Write the page.

    Args:
        path: path beside the document log, in which the documents kept for duplicates are named.
        name: name of the corpus.
        parts: records of the input files.
        compared: figures of tokenizers.
        phases: costs of the phases.
    """
    rules = [
        {"stage": stage, "rule": rule or "–", **counts}
        for stage in Stage
        for rule, counts in sorted(
            summary.stages.get(stage, {}).items(), key=lambda entry: -entry[1]["documents"]
        )
        if stage is not Stage.KEPT
    ]
    facts = {
        "name": name,
        "summary": summary,
        "kept": summary.sizes(Stage.KEPT),
        "funnel": list(_funnel(summary)),
        "rules": rules,
        "languages": _bars(
            {name: counts["documents"] for name, counts in summary.languages.items()}
        ),
        "lengths": [
            Bar(f"{size(2 ** int(key))} to {size(2 ** (int(key) + 1))}", f"{count:,}", share)
            for key, count, share in _shares(
                sorted(summary.lengths.items(), key=lambda entry: int(entry[0]))
            )
        ],
        "licences": _bars(summary.licences),
        "hosts": _bars(summary.hosts)[:SHOWN_HOSTS],
        "sources": sorted(summary.sources.items()),
        "redacted": _bars(summary.redacted),
        "examples": [_named(rule, path.parent / LOG) for rule in summary.examples],
        "cost": _cost(parts),
        "tokenizer_columns": COLUMNS,
        "tokenizers": [
            {
                "language": language,
                "size": size(figures[0].text_bytes),
                "rows": rows(figures),
            }
            for language, figures in compared.shown
        ],
        "phases": phases,
        "size": size,
    }
    return write_page(path, TEMPLATE, facts)


def size(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {UNITS[-1]}"


def _funnel(summary: Summary) -> Iterable[Bar]:
    """Yield what remains after each stage."""
    remaining = summary.items
    yield Bar("records", f"{remaining:,}", 1.0)
    for stage in Stage:
        dropped = summary.sizes(stage)["documents"]
        if stage is not Stage.KEPT and dropped:
            remaining -= dropped
            share = remaining / max(1, summary.items)
            yield Bar(f"after {stage}", f"{remaining:,}", share, f"−{dropped:,}")


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [Bar(name or "unknown", f"{count:,}", share) for name, count, share in _shares(ordered)]


def _shares(counts: Sequence[tuple[str, int]]) -> list[tuple[str, int, float]]:
    largest = max((count for _, count in counts), default=1)
    return [(name, count, count / largest) for name, count in counts]


def _named(rule: Mapping[str, Any], log: Path) -> Mapping[str, Any]:
    """Return the examples of a rule; those of duplicates name the kept document by its URL."""
    if rule["stage"] not in DUPLICATE_STAGES:
        return rule
    examples = [{**one, "value": f"kept: {name_of(log, one['value'])}"} for one in rule["examples"]]
    return {**rule, "examples": examples}


def _cost(parts: Collection[PartFigures]) -> dict[str, Any]:
    """Return processor time by stage, and the rate and memory of the first phase."""
    seconds: dict[str, float] = {}
    for part in parts:
        for stage, value in part.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    total = sum(seconds.values())
    items, read = sum(part.items for part in parts), sum(part.read_bytes for part in parts)
    return {
        "stages": [
            Bar(
                stage,
                f"{seconds[stage]:.1f} s",
                seconds[stage] / total,
                f"{items / seconds[stage]:,.0f} records/s",
            )
            for stage in Stage
            if seconds.get(stage)
        ],
        "records_per_second": items / total if total else 0.0,
        "bytes_per_second": read / total if total else 0.0,
        "largest_bytes": max((part.largest_bytes for part in parts), default=0),
    }


def compare_tokenizers(
    documents: Path, own: Path | None, report: Callable[[str], None]
) -> Comparison:
    """Return the figures of tokenizers; the comparison of too few texts has no languages.

    Published encodings are compared if their rank files are installed; words and characters are
    learned from the sample if the corpus has a tokenizer, with as many tokens.

    Args:
        documents: folder of the shuffled documents, of which the first ones are a sample.
        own: directory of the corpus' tokenizer; None without.
        report: called with a phrase on each part of the work.
    """
    learning, held_out = take_sample(_first(documents), HELD_OUT_SHARE, SAMPLE_BYTES)
    learned = sum(len(block.text.encode()) for block in learning)
    if learned < MIN_SAMPLE_BYTES or not held_out:
        return Comparison(learned, {})
    installed = [name for name in ENCODINGS if rank_file(name).exists()]
    given = [(open_published(name), rank_file(name)) for name in installed]
    configs = []
    if own is not None:
        tokenizer = open_tokenizer(own)
        given.insert(0, (tokenizer, own / TOKENIZER))
        configs = [TokenizerConfig(tokenizer.vocabulary_size, kind) for kind in LEARNED_UNITS]
    if not given:
        return Comparison(learned, {})
    return compare(learning, held_out, configs, given, report)


def _first(documents: Path) -> Iterator[Document]:
    """Yield documents until their texts have SAMPLED_CHARACTERS."""
    size = 0
    for row in chain.from_iterable(map(read_rows, sorted(documents.glob("*.parquet")))):
        if size >= SAMPLED_CHARACTERS:
            return
        size += len(row["text"])
        yield document_of(row)
