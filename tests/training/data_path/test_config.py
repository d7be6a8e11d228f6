"""Settings of a corpus: every wrong one is refused with its dotted name."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.data_path.corpora import page, settings, write_table
from training.corpus.document import CorpusError
from training.data_path.config import read_config, read_settings, write_settings

MINIMAL = '[[sources]]\nname = "web"\nfolder = "in"\n'


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(
        'url_lists = "lists"\n'
        f'{MINIMAL}\n[shards]\ntokenizer = "models/nano"\n[content]\nlists = "words"\n'
    )

    config = read_config(tmp_path / "corpus.toml")

    assert config.sources[0].folder == tmp_path / "in"
    assert config.shards.tokenizer == tmp_path / "models" / "nano"
    assert config.content.lists == str(tmp_path / "words")
    assert config.url_lists == str(tmp_path / "lists")
    assert config.language.keep == ("en",)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("sources = 3", "sources"),
        ("", "sources"),
        ("sources = []", "sources"),
        (MINIMAL + "colour = 1", "sources.0.colour"),
        (MINIMAL + "[colour]\nred = 1", "colour"),
        (MINIMAL + MINIMAL, "sources.name"),
        (MINIMAL + "weight = -1", "weight"),
        ("least_similarity = 'much'\n" + MINIMAL, "least_similarity"),
        (MINIMAL + "[language]\nmin_score = 'x'", "language.min_score"),
        (MINIMAL + "[shards]\nvocabulary = 10", "shards.vocabulary"),
        (MINIMAL + "[shards]\nvocabulary = 400\ntokenizer = 'x'", "shards.vocabulary"),
        (MINIMAL + "[quality]\ngroups = ['x']", "quality.groups"),
        (MINIMAL + "[content]\nmost = -1", "content.most"),
        (MINIMAL + "[content]\nwords = 'x'", "content.words"),
        ("[[sources", "config"),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, text: str, field: str) -> None:
    (tmp_path / "corpus.toml").write_text(text)

    with pytest.raises(CorpusError) as raised:
        read_config(tmp_path / "corpus.toml")

    assert raised.value.field == field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "weight = -1", "sources.0.weight: -1 must be above 0"),
        (MINIMAL + "[language]\nkeeep = ['de']", "language.keeep: is not a setting"),
    ],
)
def test_error_names_the_place_and_the_reason(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "corpus.toml").write_text(text)

    with pytest.raises(CorpusError, match=message):
        read_config(tmp_path / "corpus.toml")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with refused(CorpusError, field="config", reason="MISSING"):
        read_config(tmp_path / "corpus.toml")


def test_stored_settings_are_read_back(tmp_path: Path) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [page(1)])
    source: dict[str, Any] = {"name": "web", "folder": "in", "weight": 2.0, "licence": "MIT"}
    config = settings(tmp_path, source, seed=3, personal_data=["email"])

    write_settings(config, tmp_path)

    assert read_settings(tmp_path) == config


def test_folder_without_settings_is_no_corpus(tmp_path: Path) -> None:
    with refused(CorpusError, field="corpus", reason="MISSING"):
        read_settings(tmp_path)
