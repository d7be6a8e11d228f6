"""Word and character tokenizers: ids for frequent units, one counted unknown token for others."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.errors import refused
from tests.training.tokenization.sample_tokenizers import TEXT
from training.errors import ConfigError
from training.tokenization.byte_pairs import write_tokenizer
from training.tokenization.text_tokenizer import TextTokenizer, open_tokenizer
from training.tokenization.units import UNKNOWN, Unit, learn_units


def open_trained(
    directory: Path, texts: Sequence[str], vocabulary: int, unit: Unit
) -> TextTokenizer:
    write_tokenizer(learn_units(texts, vocabulary, unit), directory)
    return open_tokenizer(directory)


def test_most_frequent_words_have_ids_in_order_of_count() -> None:
    vocab = learn_units(["a tree a tree a tree, a stone"], 4, Unit.WORD).get_vocab()
    assert vocab == {UNKNOWN: 0, "a": 1, "tree": 2, "stone": 3}


def split(text: str, unit: Unit) -> list[str]:
    """Return the units of a text, as a tokenizer that was trained on it spells them."""
    tokenizer = learn_units([text], 1000, unit)
    return tokenizer.encode(text).tokens


def test_words_are_split_at_white_space() -> None:
    assert split("It's perfectly fine", Unit.WORD) == ["It's", "perfectly", "fine"]
    assert split("a,b\n\u2003c. ", Unit.WORD) == ["a,b", "c."]


def test_words_and_marks_are_split_and_sentences_start_in_lower_case() -> None:
    text = "Machine learning. ML is a subfield of artificial intelligence."
    assert split(text, Unit.WORD_OR_MARK) == (
        "machine learning . ML is a subfield of artificial intelligence ."
    ).split(" ")
    assert split("It's 3.5 %, état-major! Does Ada-Lovelace?", Unit.WORD_OR_MARK) == (
        "it's 3 . 5 % , état-major ! does Ada-Lovelace ?"
    ).split(" ")


def test_characters_of_perfectly_fine_are_14_tokens() -> None:
    assert split("perfectly fine", Unit.CHARACTER) == list("perfectly fine")
    assert len(split("perfectly fine", Unit.CHARACTER)) == 14


def test_character_vocabulary_of_english_text_is_about_a_hundred() -> None:
    assert 60 <= learn_units([TEXT], 1000, Unit.CHARACTER).get_vocab_size() <= 105


def test_equally_frequent_units_are_ordered_by_code_point() -> None:
    vocab = learn_units(["dcbaé"], 4, Unit.CHARACTER).get_vocab()
    assert vocab == {UNKNOWN: 0, "a": 1, "b": 2, "c": 3}


def test_unknown_word_is_one_unknown_token(tmp_path: Path) -> None:
    tokenizer = open_trained(tmp_path, ["the tree stands"], 10, Unit.WORD)
    ids = tokenizer.encode("the river stands !")
    assert tokenizer.unknowns(ids) == 2
    assert tokenizer.decode(ids) == f"the {UNKNOWN} stands {UNKNOWN}"
    assert tokenizer.decode(tokenizer.encode("the tree stands")) == "the tree stands"


def test_every_character_is_a_token_including_line_ends_and_emoji(tmp_path: Path) -> None:
    text = "a\r\n \u2028😀e\u0301\0"
    tokenizer = open_trained(tmp_path, [text], 100, Unit.CHARACTER)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknowns(tokenizer.encode("ab😀")) == 1


def test_spelled_out_unknown_token_is_text(tmp_path: Path) -> None:
    tokenizer = open_trained(tmp_path, [UNKNOWN], 300, Unit.CHARACTER)
    assert tokenizer.unknowns(tokenizer.encode(UNKNOWN)) == 0
    assert tokenizer.decode(tokenizer.encode(UNKNOWN)) == UNKNOWN


def test_fewer_than_two_tokens_are_refused() -> None:
    with refused(ConfigError, field="vocabulary", reason="OUT_OF_RANGE", limit="at least 2"):
        learn_units(["x"], 1, Unit.WORD)
