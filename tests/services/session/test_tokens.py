"""Counting with the model's tokenizer."""

from pathlib import Path

import pytest

from services.session.tokens import INLINE_CHARACTERS, TokenizerMissingError, load_counter
from tests.services.session.tokenizer import write_tokenizer


async def test_texts_are_counted_whole_and_without_special_tokens(tmp_path: Path) -> None:
    counter = await load_counter(write_tokenizer(tmp_path))
    assert await counter.count(["", "one", "one two three four five six"]) == [0, 1, 6]
    assert await counter.count(["word " * INLINE_CHARACTERS]) == [INLINE_CHARACTERS]


async def test_a_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(TokenizerMissingError, match="make up"):
        await load_counter(tmp_path / "tokenizer.json")


async def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(TokenizerMissingError, match=r"tokenizer\.json is not a"):
        await load_counter(path)
