"""The steps of the phases, built from the settings once in each process."""

from __future__ import annotations

import atexit
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.artifacts.manifest import hash_file
from training.corpus.decontamination import Decontaminator, build_index
from training.corpus.document import CorpusError, Document, Item, Stage, Verdict
from training.corpus.extraction_guard import GuardedExtractor
from training.corpus.language import LanguageIdentifier
from training.corpus.pii.redaction import redact
from training.corpus.quality.content import content_step, list_files
from training.corpus.quality.steps import quality_steps
from training.corpus.quality.url_lists import hashed_lists, open_lists
from training.corpus.quality.urls import UrlFilter
from training.corpus.sources.config import Kind, SourceConfig
from training.corpus.sources.reading import read as read_file
from training.data_path.clean import Steps
from training.data_path.config import CorpusConfig
from training.data_path.finish import FinishSteps
from training.evaluation_items import evaluation_items

URL_LISTS, ITEMS = "url_lists", "items"
SINGLE_RECORD = (Kind.HTML, Kind.TEXT)  # kinds whose files have one record


@dataclass(frozen=True)
class Input:
    """Files of a source that are cleaned together.

    Attributes:
        name: path of the file, or of the folder of single pages and texts, relative to the source.
    """

    source: SourceConfig
    name: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Return the bytes of the files."""
        return sum(file.stat().st_size for file in self.files)

    def stamp(self) -> list[list[object]]:
        """Identify the state of the files without reading them."""
        states = [(file, file.stat()) for file in self.files]
        return [
            [self.source.relative_name(file), state.st_size, state.st_mtime_ns]
            for file, state in states
        ]


def checked_inputs(config: CorpusConfig) -> list[Input]:
    """Return the inputs of all sources in a fixed order.

    Raises:
        CorpusError: a source has no files, a language is unknown, or the tokenizer is missing;
            otherwise this would end a build after minutes, or drop every text.
    """
    LanguageIdentifier(config.language.keep, config.language.min_score)
    tokenizer = config.shards.tokenizer
    if tokenizer is not None and not (tokenizer / "tokenizer.json").is_file():
        raise CorpusError(
            f"shards.tokenizer: {tokenizer} has no tokenizer.json",
            field="shards.tokenizer",
            reason="MISSING",
        )
    found: dict[tuple[str, str], list[Path]] = {}
    sources = {source.name: source for source in config.sources}
    for source in config.sources:
        for file in source.list_files():
            name = source.relative_name(file)
            if source.kind_of(file) in SINGLE_RECORD:
                name = name.rpartition("/")[0] + "/"
            found.setdefault((source.name, name), []).append(file)
    return [Input(sources[key[0]], key[1], tuple(files)) for key, files in sorted(found.items())]


def read(given: Input) -> Iterator[Item]:
    """Yield the items of an input."""
    for file in given.files:
        yield from read_file(given.source, file)


@dataclass(frozen=True)
class Data:
    """Data of the steps beside the settings.

    Attributes:
        url_lists: hashes of the operator's URL lists, or None.
        items: index of the items of the evaluation, named by a hash of them; None checks no text.
        cleaning: contents of the lists of the first phase, as hashes.
    """

    url_lists: Path | None
    items: Path | None
    cleaning: tuple[str, ...]


def prepare(config: CorpusConfig, out: Path) -> Data:
    """Check the data of the steps, install or write what is missing, and return all of it.

    Args:
        out: folder of the corpus, which receives hashes and index.

    Raises:
        CorpusError: lists are missing, unusable, or not used by any category.
        DataError: a data package is missing and could not be installed.
    """
    own = None
    if config.url_lists:
        own = hashed_lists(Path(config.url_lists), out / URL_LISTS)
        names = sorted(one.name for one in own.iterdir())
        if set(names).isdisjoint(config.url_categories):
            raise CorpusError(
                f"url_categories: contains none of url_lists: {', '.join(names)}",
                field="url_categories",
                reason="UNUSED",
                limit=", ".join(names),
            )
    lists = open_lists(config.url_categories, own)
    UrlFilter(lists, config.url_categories)  # refuses unknown categories
    words = list_files(config.content) if config.content_filter else {}
    items = None
    if config.decontaminate:
        items = build_index(evaluation_items(), out / ITEMS, config.decontamination)
        for earlier in {*(out / ITEMS).iterdir()} - {items}:
            shutil.rmtree(earlier)
    cleaning = [folder.name for folder in lists.folders]
    cleaning += [f"{language} {hash_file(file)}" for language, file in words.items()]
    return Data(own, items, tuple(cleaning))


@cache
def clean_steps(config: CorpusConfig, data: Data) -> Steps:
    """Return the steps of the first phase."""
    language = LanguageIdentifier(config.language.keep, config.language.min_score)
    categories = config.url_categories
    content = [(Stage.CONTENT, content_step(config.content))] if config.content_filter else []
    extractor = GuardedExtractor(config.extraction)
    atexit.register(extractor.close)
    return Steps(
        url=UrlFilter(open_lists(categories, data.url_lists), categories)
        if categories
        else lambda url: None,
        extract=extractor,
        later=(
            (Stage.LANGUAGE, language),
            *((Stage.QUALITY, step) for step in quality_steps(config.quality)),
            *content,
        ),
        extraction_clock=lambda: time.process_time() + extractor.seconds,
        requires_licence=config.require_licence,
    )


@cache
def finish_steps(config: CorpusConfig, data: Data) -> FinishSteps:
    """Return the steps of the third phase."""

    def keep(document: Document) -> Document | Verdict:
        return document

    def replaced(document: Document) -> tuple[str, Counter[str]]:
        found = redact(document.text, document.language, config.personal_data, document.origin.url)
        return found.text, Counter({kind.value: count for kind, count in found.counts.items()})

    return FinishSteps(
        decontaminate=keep if data.items is None else Decontaminator(data.items), redact=replaced
    )
