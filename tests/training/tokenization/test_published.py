"""Published encodings: definitions equal to tiktoken's, published ids, and refused files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from tiktoken_ext import openai_public

from tests.support.errors import refused
from tests.support.page_encodings import GOLDEN, golden
from tests.training.tokenization.sample_tokenizers import DIFFICULT, unicode_texts
from training.tokenization.published import PUBLISHED, open_published, rank_file, read_ranks
from training.tokenization.text_tokenizer import LONG_RUN_CHARACTERS, TokenizerError

# Article 1 of the Universal Declaration of Human Rights, first sentence (United Nations).
ENGLISH = "All human beings are born free and equal in dignity and rights."
OTHER_LANGUAGES = {
    "Bulgarian": "Всички хора се раждат свободни и равни по достойнство и права.",
    "Czech": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_definitions_equal_those_of_tiktoken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_of(url: str, expected_hash: str) -> Any:
        return url.rpartition("/")[2], expected_hash

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", hash_of)
    theirs, ours = openai_public.ENCODING_CONSTRUCTORS[name](), PUBLISHED[name]
    assert theirs["mergeable_ranks"] == (f"{name}.tiktoken", ours.sha256)
    assert theirs["pat_str"] == ours.pattern
    assert theirs["special_tokens"] == ours.control


def test_i_love_machine_learning_has_the_published_ids() -> None:
    assert open_published("cl100k_base").encode("I love machine learning!") == [
        *(40, 3021, 5780, 6975, 0)
    ]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cl100k_base", 100_277),
        ("o200k_base", 200_019),
        ("p50k_base", 50_281),
        ("r50k_base", 50_257),
    ],
)
def test_vocabulary_has_the_published_size(name: str, size: int) -> None:
    assert open_published(name).vocabulary_size == size


def test_ids_of_the_pages_unit_tests_are_current() -> None:
    """Run `python -m tests.support.page_encodings` after a change of the texts."""
    assert json.loads(GOLDEN.read_text()) == golden()


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [
        ("cl100k_base", " perfectly", [" perfectly"]),
        ("cl100k_base", " perfectely", [" perfect", "ely"]),
        ("o200k_base", " perfectly", [" perfectly"]),
        ("o200k_base", " perfectely", [" perfect", "ely"]),
        ("r50k_base", " perfectly", [" perfectly"]),
        ("p50k_base", " perfectely", [" perfect", "e", "ly"]),
        ("r50k_base", " perfectely", [" perfect", "e", "ly"]),
    ],
)
def test_misspelled_word_has_more_tokens(name: str, text: str, tokens: list[str]) -> None:
    assert [piece.content.decode() for piece in open_published(name).pieces(text)] == tokens


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_other_languages_have_two_to_three_times_the_tokens_per_character_of_english(
    language: str,
) -> None:
    text, encoding = OTHER_LANGUAGES[language], open_published("cl100k_base")
    english = len(encoding.encode(ENGLISH)) / len(ENGLISH)
    assert 2 <= len(encoding.encode(text)) / len(text) / english <= 3


@given(text=unicode_texts)
def test_bytes_of_the_tokens_join_to_the_text(text: str) -> None:
    for name in PUBLISHED:
        encoding = open_published(name)
        pieces = encoding.pieces(text)
        assert b"".join(piece.content for piece in pieces) == text.encode()
        assert encoding.decode([piece.id for piece in pieces]) == text


@pytest.mark.parametrize("name", PUBLISHED)
def test_control_tokens_in_a_text_are_text(name: str) -> None:
    encoding, control = open_published(name), set(PUBLISHED[name].control.values())
    for text in (*DIFFICULT, *PUBLISHED[name].control):
        ids = encoding.encode(text)
        assert control.isdisjoint(ids)
        assert encoding.decode(ids) == text


def test_long_run_of_white_space_is_refused_with_its_limit() -> None:
    limit = LONG_RUN_CHARACTERS - 1
    with refused(TokenizerError, field="text", reason="TOO_LONG", limit=str(limit)):
        open_published("r50k_base").encode("x" + " " * LONG_RUN_CHARACTERS)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    known = "o200k_base, cl100k_base, p50k_base, r50k_base"
    with refused(TokenizerError, field="tokenizer", reason="UNKNOWN", limit=known):
        open_published("o300k_base")


def test_changed_rank_file_is_refused(tmp_path: Path) -> None:
    content = gzip.decompress(rank_file("r50k_base").read_bytes())
    path, sha256 = tmp_path / "r50k_base.tiktoken.gz", PUBLISHED["r50k_base"].sha256
    path.write_bytes(gzip.compress(content.replace(b" 40\n", b" 41\n", 1)))
    with refused(TokenizerError, field=path.name, reason="MISMATCH", limit=sha256):
        read_ranks(path, sha256)
    path.write_bytes(rank_file("r50k_base").read_bytes()[:-100])
    with refused(TokenizerError, field=path.name, reason="MALFORMED"):
        read_ranks(path, sha256)
    path.unlink()
    with refused(TokenizerError, field=path.name, reason="MISSING"):
        read_ranks(path, sha256)
