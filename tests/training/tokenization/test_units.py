"""Word and character tokenizers: ids for frequent units, one counted unknown token for others."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.errors import refused
from training.errors import ConfigError
from training.tokenization.byte_pairs import write_tokenizer
from training.tokenization.text_tokenizer import TextTokenizer, open_tokenizer
from training.tokenization.units import CHARACTER, UNKNOWN, WORD, learn_units


def open_trained(
    directory: Path, texts: Sequence[str], vocabulary: int, pattern: str
) -> TextTokenizer:
    write_tokenizer(learn_units(texts, vocabulary, pattern), directory)
    return open_tokenizer(directory)


def test_most_frequent_words_have_ids_in_order_of_count() -> None:
    vocab = learn_units(["a tree a tree a tree, a stone"], 4, WORD).get_vocab()
    assert vocab == {UNKNOWN: 0, " a": 1, " tree": 2, " stone": 3}


def test_equally_frequent_units_are_ordered_by_code_point() -> None:
    assert learn_units(["dcbaé"], 4, CHARACTER).get_vocab() == {UNKNOWN: 0, "a": 1, "b": 2, "c": 3}


def test_unknown_word_is_one_unknown_token(tmp_path: Path) -> None:
    tokenizer = open_trained(tmp_path, ["the tree stands"], 10, WORD)
    ids = tokenizer.encode("the river stands!")
    assert tokenizer.unknowns(ids) == 2
    assert tokenizer.decode(ids) == f"the{UNKNOWN} stands{UNKNOWN}"
    assert tokenizer.decode(tokenizer.encode("the tree stands")) == "the tree stands"


def test_every_character_is_a_token_including_line_ends_and_emoji(tmp_path: Path) -> None:
    text = "a\r\n \u2028😀e\u0301\0"
    tokenizer = open_trained(tmp_path, [text], 100, CHARACTER)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknowns(tokenizer.encode("ab😀")) == 1


def test_spelled_out_unknown_token_is_text(tmp_path: Path) -> None:
    tokenizer = open_trained(tmp_path, [UNKNOWN], 300, CHARACTER)
    assert tokenizer.unknowns(tokenizer.encode(UNKNOWN)) == 0
    assert tokenizer.decode(tokenizer.encode(UNKNOWN)) == UNKNOWN


def test_fewer_than_two_tokens_are_refused() -> None:
    with refused(ConfigError, field="vocabulary", reason="OUT_OF_RANGE", limit="at least 2"):
        learn_units(["x"], 1, WORD)
