"""`thumbwheel data build`: a corpus from crawls, archives and tables."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from training.corpus.document import Stage

if TYPE_CHECKING:
    from training.data_path.config import CorpusConfig
    from training.data_path.summary import Summary

SUMMARY = "Clean texts, remove duplicates and personal data, and write token shards."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", type=Path, help="TOML file with [[sources]]; docs/data-path.md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(4, len(os.sched_getaffinity(0))),
        help="input files at once (default: %(default)s)",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace a corpus in --out that was built from other sources",
    )


def run(options: argparse.Namespace) -> int:
    """Build, continue or update the corpus; return 1 if no text remains."""
    # Imported here, because the options are described without the packages of the command.
    from training.data_path.config import read_config

    config = read_config(options.config)
    summary = build_and_report(config, options.out, options.workers, replaces=options.replace)
    if not summary.kept:
        print("no text remained, so there are no shards; the report names all rules")
    return 0 if summary.kept else 1


def build_and_report(
    config: CorpusConfig, out: Path, workers: int, *, replaces: bool = False
) -> Summary:
    """Build the corpus and print the funnel; `replaces` as in `pipeline.build`."""
    from training.data_path.log import RESULT
    from training.data_path.pipeline import DOCUMENTS, REPORT, SHARDS, TOKENIZER, build
    from training.reporting.progress import open_display

    with open_display() as display:
        summary = build(config, out, workers, display, replaces=replaces)
    print(funnel(summary))
    for name in (DOCUMENTS, TOKENIZER, SHARDS, REPORT):
        if (out / RESULT / name).exists():
            print(f"{name.partition('.')[0]}: {out / RESULT / name}")
    return summary


def funnel(summary: Summary) -> str:
    """Return a line for each stage with the documents that it dropped, most by which rule."""
    lines = [f"{'records':<18}{summary.items:>12,}"]
    for stage in Stage:
        count = summary.sizes(stage)["documents"]
        if count and stage is not Stage.KEPT:
            rules = summary.stages[stage]
            most = max(rules, key=lambda rule: rules[rule]["documents"])
            by = f"  {rules[most]['documents']:,} by {most}" if most else ""
            lines.append(f"{stage:<18}{-count:>12,}  {count / summary.items:.1%}{by}")
    kept = summary.kept
    lines.append(f"{'kept':<18}{kept:>12,}  {kept / max(1, summary.items):.1%}")
    if summary.without_licence:
        lines.append(f"{'  without licence':<18}{summary.without_licence:>12,}")
    return "\n".join(lines)
