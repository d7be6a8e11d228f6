"""`thumbwheel data remove`: delete documents from a corpus and its shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.corpus.document import CorpusError, Stage
from training.data_path.build_command import build_and_report

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
    # Imported here, because the options are described without the packages of the command.
    from training.data_path import log, removal
    from training.data_path.config import read_settings
    from training.data_path.finish import origin_of

    for folder in options.models:
        if not folder.is_dir():
            raise CorpusError(f"models: {folder} is no folder", field="models", reason="MISSING")
    config = read_settings(options.corpus)
    by = next(one for one in removal.By if getattr(options, one))
    value, documents = getattr(options, by), options.corpus / log.RESULT / log.LOG
    if by is removal.By.URL and (found := log.find_page(documents, value)):
        value = found[0].url or value  # in the spelling of the log
    recorded = removal.record(options.corpus, by, value)
    removed = [
        entry.id
        for entry in log.entries(documents)
        if entry.stage in (Stage.KEPT, Stage.REMOVAL) and recorded.concerns(origin_of(vars(entry)))
    ]
    folders = options.models or [Path(".state/models")]
    artifacts = removal.artifacts_in(folders)
    builds = removal.builds_with(options.corpus, removed)
    builds |= removal.shards_with(artifacts, removed)
    models = removal.models_of(builds, artifacts)
    summary = build_and_report(config, options.corpus, options.workers)
    print(f"{len(removed):,} documents of the result were removed; {summary.kept:,} remain")
    if models:
        print("trained on shards with at least one of them:")
        for version, folder in models:
            print(f"  {version}: {folder}")
    else:
        searched = ", ".join(str(folder) for folder in folders)
        print(f"no model in {searched} was trained on shards with them")
    return 0
