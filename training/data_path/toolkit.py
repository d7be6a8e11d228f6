"""The steps of the phases, built from the settings once in each process."""

from __future__ import annotations

import atexit
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.corpus.decontamination import Decontaminator
from training.corpus.document import Document, Item, Stage, Verdict
from training.corpus.extraction_guard import GuardedExtractor
from training.corpus.language import LanguageIdentifier
from training.corpus.pii.redaction import redact
from training.corpus.quality.content import content_step
from training.corpus.quality.steps import quality_steps
from training.corpus.quality.url_lists import packaged_lists
from training.corpus.quality.urls import UrlFilter
from training.corpus.sources.config import Kind, SourceConfig
from training.corpus.sources.reading import read as read_file
from training.data_path.clean import Steps
from training.data_path.config import CorpusConfig
from training.data_path.finish import FinishSteps

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


def inputs(config: CorpusConfig) -> list[Input]:
    """Return the inputs of all sources in a fixed order.

    Raises:
        CorpusError: a source has no files.
    """
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


@cache
def clean_steps(config: CorpusConfig) -> Steps:
    """Return the steps of the first phase."""
    language = LanguageIdentifier(config.language.keep, config.language.min_score)
    categories = config.url_categories
    content = [(Stage.CONTENT, content_step(config.content))] if config.content_filter else []
    extractor = GuardedExtractor(config.extraction)
    atexit.register(extractor.close)
    return Steps(
        url=UrlFilter(packaged_lists(), categories) if categories else lambda url: None,
        extract=extractor,
        later=(
            (Stage.LANGUAGE, language),
            *((Stage.QUALITY, step) for step in quality_steps(config.quality)),
            *content,
        ),
        extraction_clock=lambda: time.process_time() + extractor.seconds,
    )


@cache
def finish_steps(config: CorpusConfig, items: Path | None) -> FinishSteps:
    """Return the steps of the third phase.

    Args:
        items: index of the items of the evaluation; None checks no text.
    """

    def keep(document: Document) -> Document | Verdict:
        return document

    def replaced(document: Document) -> tuple[str, Counter[str]]:
        found = redact(document.text, document.language, config.personal_data, document.origin.url)
        return found.text, Counter({kind.value: count for kind, count in found.counts.items()})

    return FinishSteps(
        decontaminate=keep if items is None else Decontaminator(items), redact=replaced
    )
