"""Words and characters: the most frequent have ids, all others are one unknown token that is
counted.
"""

from collections.abc import Sequence
from pathlib import Path

from tests.support.errors import refused
from training.errors import ConfigError
from training.tokenization.control import write_tokenizer
from training.tokenization.opened import TextTokenizer, open_tokenizer
from training.tokenization.units import CHARACTER, UNKNOWN, WORD, learn_units


def opened(directory: Path, texts: Sequence[str], vocabulary: int, pattern: str) -> TextTokenizer:
    write_tokenizer(learn_units(texts, vocabulary, pattern), directory)
    return open_tokenizer(directory)


def test_the_most_frequent_words_have_ids_in_the_order_of_their_count() -> None:
    vocab = learn_units(["a tree a tree a tree, a stone"], 4, WORD).get_vocab()
    assert vocab == {UNKNOWN: 0, " a": 1, " tree": 2, " stone": 3}


def test_of_equally_frequent_ones_the_first_by_code_point_is_kept() -> None:
    assert learn_units(["dcbaé"], 4, CHARACTER).get_vocab() == {UNKNOWN: 0, "a": 1, "b": 2, "c": 3}


def test_a_word_that_is_not_known_is_one_unknown_token(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, ["the tree stands"], 10, WORD)
    ids = tokenizer.encode("the river stands!")
    assert tokenizer.unknowns(ids) == 2
    assert tokenizer.decode(ids) == f"the{UNKNOWN} stands{UNKNOWN}"
    assert tokenizer.decode(tokenizer.encode("the tree stands")) == "the tree stands"


def test_every_character_is_a_token_line_ends_and_emoji_too(tmp_path: Path) -> None:
    text = "a\r\n \u2028😀e\u0301\0"
    tokenizer = opened(tmp_path, [text], 100, CHARACTER)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknowns(tokenizer.encode("ab😀")) == 1


def test_the_unknown_token_spelled_out_is_text(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, [UNKNOWN], 300, CHARACTER)
    assert tokenizer.unknowns(tokenizer.encode(UNKNOWN)) == 0
    assert tokenizer.decode(tokenizer.encode(UNKNOWN)) == UNKNOWN


def test_less_than_two_tokens_are_refused() -> None:
    with refused(ConfigError, field="vocabulary", reason="OUT_OF_RANGE", limit="at least 2"):
        learn_units(["x"], 1, WORD)
