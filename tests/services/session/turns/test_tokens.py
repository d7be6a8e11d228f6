"""Token counts with the tokenizer of the model."""

from pathlib import Path

from services.session.turns.tokens import INLINE_CHARACTERS, TokenizerMissingError, load_counter
from tests.services.session.tokenizer import write_tokenizer
from tests.support.errors import refused


async def test_texts_are_counted_without_truncation_and_special_tokens(tmp_path: Path) -> None:
    counter = await load_counter(write_tokenizer(tmp_path))
    assert await counter.count(["", "one", "one two three four five six"]) == [0, 1, 6]
    assert await counter.count(["word " * INLINE_CHARACTERS]) == [INLINE_CHARACTERS]


async def test_missing_tokenizer_error_names_setting_and_command(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with refused(TokenizerMissingError, field=str(path), reason="MISSING") as caught:
        await load_counter(path)
    assert "TW_SESSION_TOKENIZER_FILE" in str(caught.value)
    assert "make up" in str(caught.value), "the command that installs one"


async def test_malformed_tokenizer_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with refused(TokenizerMissingError, field=str(path), reason="MALFORMED"):
        await load_counter(path)
