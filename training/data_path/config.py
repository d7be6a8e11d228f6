"""Settings of a corpus, read from a TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from durable_files.files import write_json
from training.artifacts.manifest import plain
from training.corpus.decontamination import DecontaminationConfig
from training.corpus.document import CorpusError
from training.corpus.extraction import ExtractionOptions
from training.corpus.language import MIN_SCORE
from training.corpus.pii.kinds import DEFAULT_KINDS, Kind
from training.corpus.quality.content import ContentConfig
from training.corpus.quality.steps import QualityConfig
from training.corpus.quality.url_lists import ADULT
from training.corpus.sources.config import Columns, SourceConfig

SETTINGS = "settings.json"
SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class LanguageConfig:
    """Languages of the result.

    Attributes:
        keep: ISO 639-1 codes; empty keeps all that are identified.
        min_score: least probability of the identified language.
    """

    keep: tuple[str, ...] = ("en",)
    min_score: float = MIN_SCORE


@dataclass(frozen=True)
class ShardSettings:
    """Token shards; without tokenizer and vocabulary the result has only documents.

    Attributes:
        tokenizer: directory with tokenizer.json.
        vocabulary: number of tokens of a tokenizer to train on the documents instead.
        held_out_fraction: share of the texts for evaluation, by hash.
    """

    tokenizer: Path | None = None
    vocabulary: int | None = None
    held_out_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.tokenizer is not None and self.vocabulary is not None:
            raise CorpusError(
                "shards.vocabulary: is for a new tokenizer; shards.tokenizer names an existing one",
                field="shards.vocabulary",
                reason="CONFLICT",
            )
        if self.vocabulary is not None and not 300 <= self.vocabulary <= 1_000_000:
            raise CorpusError(
                f"shards.vocabulary: {self.vocabulary} is not from 300 to 1,000,000",
                field="shards.vocabulary",
                reason="OUT_OF_RANGE",
                limit="300 to 1,000,000",
            )


@dataclass(frozen=True)
class CorpusConfig:
    """Settings of a corpus.

    Attributes:
        sources: inputs, each with a name of its own.
        url_categories: categories of the URL lists whose pages are dropped; empty reads no list.
        url_lists: folder with a folder for each category of your own; "" for none.
        content_filter: drop texts with words of the lists of `content`.
        near_duplicates: drop near duplicates; exact ones are always dropped.
        personal_data: kinds of personal data that placeholders replace; empty replaces none.
        least_similarity: near duplicates must share this part of their minima; 0 takes every
            candidate, as FineWeb does.
        decontaminate: drop texts that contain items of the evaluation.
        licence: of the result.
        require_licence: drop records without a licence of their own or of their source.
        seed: determines the order of the documents and the samples of the sources.
    """

    sources: tuple[SourceConfig, ...]
    url_categories: tuple[str, ...] = (ADULT,)
    url_lists: str = ""
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    content_filter: bool = False
    content: ContentConfig = field(default_factory=ContentConfig)
    near_duplicates: bool = True
    least_similarity: float = 0.0
    decontaminate: bool = True
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    personal_data: tuple[Kind, ...] = tuple(sorted(DEFAULT_KINDS))
    shards: ShardSettings = field(default_factory=ShardSettings)
    licence: str = ""
    require_licence: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise CorpusError("sources: at least one is needed", field="sources", reason="EMPTY")
        if double := {name for name in names if names.count(name) > 1}:
            raise CorpusError(
                f"sources: {min(double)} occurs twice", field="sources.name", reason="EXISTS"
            )

    @property
    def cleaning(self) -> list[object]:
        """Return the settings that determine the first phase, without those of the sources."""
        content = self.content if self.content_filter else None
        found = [self.url_categories, self.extraction, self.language, self.quality, content]
        # Later settings are listed only if set, so that folders of earlier releases stay valid.
        return [*found, "require_licence"] if self.require_licence else found

    @property
    def finishing(self) -> list[object]:
        """Return the settings that determine the later phases."""
        weights = [[source.name, source.weight] for source in self.sources]
        return [
            weights,
            self.near_duplicates,
            self.least_similarity,
            self.decontaminate,
            self.decontamination,
            list(self.personal_data),
            self.shards.vocabulary,
            self.shards.held_out_fraction,
            self.licence,
            self.seed,
        ]


# pydantic reads this attribute of a dataclass; otherwise unknown settings would be ignored.
for _settings in (
    CorpusConfig,
    Columns,
    ContentConfig,
    DecontaminationConfig,
    ExtractionOptions,
    LanguageConfig,
    QualityConfig,
    ShardSettings,
    SourceConfig,
):
    setattr(_settings, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010


def read_config(path: Path) -> CorpusConfig:
    """Read settings; relative paths are relative to the folder of the file.

    Raises:
        CorpusError: the file is missing or malformed, or a setting is unknown or impossible.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise CorpusError(f"config: {path} is missing", field="config", reason="MISSING") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"config: {path.name}: {error}", field="config", reason="MALFORMED"
        ) from error
    return from_mapping(settings, path.parent)


def from_mapping(settings: Mapping[str, Any], folder: Path) -> CorpusConfig:
    """Return the settings of a mapping such as a parsed TOML file.

    Args:
        folder: base of relative paths.

    Raises:
        CorpusError: a setting is unknown or impossible; `field` is its dotted name.
    """
    adapter = TypeAdapter(CorpusConfig)
    try:
        config = adapter.validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, CorpusError):
            # Errors of a source name only its own field.
            place = f"{name}." if first["loc"][:1] == ("sources",) else ""
            raise CorpusError(
                f"{place}{cause.text}",
                field=cause.field or name,
                reason=cause.reason,
                limit=cause.limit,
            ) from error
        unknown = first["type"] == "unexpected_keyword_argument"
        text = "is not a setting" if unknown else first["msg"]
        raise CorpusError(f"{name}: {text}", field=name, reason="INVALID") from error
    sources = tuple(replace(one, folder=(folder / one.folder).absolute()) for one in config.sources)
    tokenizer = config.shards.tokenizer
    shards = replace(
        config.shards, tokenizer=None if tokenizer is None else (folder / tokenizer).absolute()
    )
    url_lists, content_lists = (
        str((folder / lists).absolute()) if lists else ""
        for lists in (config.url_lists, config.content.lists)
    )
    content = replace(config.content, lists=content_lists)
    return replace(config, sources=sources, shards=shards, content=content, url_lists=url_lists)


def write_settings(config: CorpusConfig, corpus: Path) -> None:
    """Store the settings in the folder of a corpus, for removals; equal ones are not written."""
    path, fields = corpus / SETTINGS, plain(config)
    if not path.exists() or json.loads(path.read_text()) != json.loads(json.dumps(fields)):
        write_json(path, fields)


def check_sources(config: CorpusConfig, corpus: Path) -> None:
    """Check that no source of the last build of a folder is missing or has another folder.

    Such settings are those of another corpus, or their result lacks the documents of the source.

    Raises:
        CorpusError: a source differs; the text names the first ones.
    """
    path = corpus / SETTINGS
    if not path.exists():
        return
    now = {source.name: str(source.folder) for source in config.sources}
    before = {one["name"]: one["folder"] for one in json.loads(path.read_text())["sources"]}
    differences = [
        f"source {name} was {folder} and is {now.get(name, 'missing')}"
        for name, folder in sorted(before.items())
        if now.get(name) != folder
    ]
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        shown = [*differences[:SHOWN_DIFFERENCES], *([f"{more} more"] if more > 0 else [])]
        raise CorpusError(
            f"sources: {corpus} was built from other sources: {'; '.join(shown)}."
            " Choose another --out, or replace the corpus with --replace",
            field="sources",
            reason="CONFLICT",
            limit="the sources of the last build, and new ones",
        )


def read_settings(corpus: Path) -> CorpusConfig:
    """Return the settings of the last build of a corpus.

    Raises:
        CorpusError: the folder is no corpus.
    """
    try:
        settings = json.loads((corpus / SETTINGS).read_text())
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"corpus: {corpus} has no {SETTINGS}; `thumbwheel data build` writes it",
            field="corpus",
            reason="MISSING",
        ) from error
    return from_mapping(settings, corpus)
