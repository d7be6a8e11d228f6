"""`thumbwheel data why`: the verdict on a document."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.corpus.document import DUPLICATE_STAGES, Stage

if TYPE_CHECKING:
    from training.data_path.log import Entry

SUMMARY = "Show why a page is in the corpus or not: stage, rule and measured value."
NOT_FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("url", metavar="URL|ID", help="URL, or a document's id")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of `data build`")
    parser.add_argument("--json", action="store_true", help="print JSON lines")


def run(options: argparse.Namespace) -> int:
    """Print each entry; exit with 1 if there is none."""
    # Imported here, because the options are described without the packages of the command.
    from training.data_path.log import LOG, RESULT, find_page

    folder = options.corpus / RESULT / LOG
    found = find_page(folder, options.url)
    for entry in found:
        if options.json:
            print(json.dumps(asdict(entry), ensure_ascii=False))
        else:
            print(describe(entry, folder))
    if found:
        return 0
    fates = list(crawl_rows(options.corpus, options.url))
    for row in fates:
        value = f": {row['value']}" if row["value"] else ""
        text = f"{row['url']}: not downloaded by the crawl, {row['fate']}{value}"
        print(json.dumps(row, ensure_ascii=False) if options.json else text)
    if not fates:
        print(f"{options.url} is in no input of this corpus")
    return 0 if fates else NOT_FOUND


def crawl_rows(corpus: Path, url: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a URL in the crawl logs of the sources."""
    # Imported here, since most questions are answered by the document log.
    from training.corpus.crawl.crawl_log import find_row
    from training.corpus.crawl.urls import spellings
    from training.data_path.config import read_settings

    for log in filter(None, (source.crawl_log for source in read_settings(corpus).sources)):
        rows = (find_row(log, spelling) for spelling in spellings(url))
        if row := next(filter(None, rows), None):
            yield row


def describe(entry: Entry, folder: Path) -> str:
    """Return an entry in words."""
    from training.data_path.log import name_of

    origin = f"{entry.url or entry.id} (source {entry.source}, {entry.size:,} bytes)"
    if entry.stage == Stage.KEPT:
        replaced = f"; personal data replaced: {entry.value}" if entry.value else ""
        return f"{origin}: kept, as document {entry.id}{replaced}"
    if entry.stage in DUPLICATE_STAGES:
        return f"{origin}: dropped as {entry.stage} of {name_of(folder, entry.value)}"
    value = f": {entry.value}" if entry.value else ""
    return f"{origin}: dropped by stage {entry.stage}, rule {entry.rule}{value}"
