"""`thumbwheel data remove`: delete documents from a corpus and its shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.corpus.document import CorpusError, Stage
from training.data_path import log
from training.data_path.build_command import build_and_report
from training.data_path.config import read_settings
from training.data_path.finish import origin_of
from training.data_path.removal import By, builds_with, models_of, record, shards_with

SUMMARY = "Remove documents by URL, host or licence, and name the models that learned from them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--url", help="one page")
    what.add_argument("--host", help="a host with its subdomains")
    what.add_argument("--licence", help="all documents of a licence")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of `data build`")
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        help="folder with models to search, by default .state/models; may be repeated",
    )
    parser.add_argument("--workers", type=int, default=1, help="input files at once")


def run(options: argparse.Namespace) -> int:
    """Record the removal, name the models, and build the corpus again.

    Raises:
        CorpusError: --corpus is no corpus, a folder of --models does not exist, or --host is no
            host name; nothing is recorded.
    """
    for folder in options.models:
        if not folder.is_dir():
            raise CorpusError(f"models: {folder} is no folder", field="models", reason="MISSING")
    config = read_settings(options.corpus)
    by = next(one for one in By if getattr(options, one))
    removal = record(options.corpus, by, getattr(options, by))
    removed = [
        entry.id
        for entry in log.entries(options.corpus / log.RESULT / log.LOG)
        if entry.stage in (Stage.KEPT, Stage.REMOVAL) and removal.concerns(origin_of(vars(entry)))
    ]
    folders = options.models or [Path(".state/models")]
    builds = builds_with(options.corpus, removed) | shards_with(folders, removed)
    models = models_of(builds, folders)
    summary = build_and_report(config, options.corpus, options.workers)
    print(f"{len(removed):,} documents of the result were removed; {summary.kept:,} remain")
    if models:
        print(f"trained on shards with at least one of them: {', '.join(models)}")
    else:
        searched = ", ".join(str(folder) for folder in folders)
        print(f"no model in {searched} was trained on shards with them")
    return 0
