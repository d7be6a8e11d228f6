"""Words and sentences equal those of spaCy, on ordinary and on adversarial texts."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpus.document import CorpusError
from training.corpus.quality.words import CUT_CHUNK, MAX_CHUNK, Tokenizer

# Pieces that tokenizers treat specially: affixes, contractions, emoticons, abbreviations.
PIECES = (
    *("it's", "don't", "e.g.", "a.m.", "U.S.", "Mr.", "I.e.", ":)", ":-(", "8)", "(*_*)", "<3"),
    *("':('", "o.O", "><(((*>", "'s", "’s", "and/or", "10km", "$5", "C++", "a.b", "x=1", "..."),
    *(
        "(",
        ")",
        ":",
        ";",
        "'",
        '"',
        ".",
        ",",
        "!",
        "?",
        "…",
        "[1]",
        "#",
        "—",
        "-",
        "_",
        "/",
        "=",
        "8",
    ),
    *(
        "word",
        "Word",
        "http://a.b/c?d=1",
        "me@a.org",
        "日本",
        "тест",
        "\u200b",
        "\ufe0f",
        "🙂",
        "IS_ALPHA",
    ),
)
SPACES = (" ", " ", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u2028", "\r\n", "")


@pytest.fixture(scope="module")
def reference() -> Callable[[str], Any]:
    pipeline = spacy.blank("en")
    pipeline.add_pipe("sentencizer")
    return pipeline


def texts() -> st.SearchStrategy[str]:
    part = st.tuples(st.sampled_from(PIECES), st.sampled_from(SPACES))
    return st.lists(part, max_size=30).map(lambda parts: "".join(a + b for a, b in parts))


@settings(max_examples=80, deadline=None)
@given(text=texts() | st.text(max_size=60))
def test_words_and_sentences_equal_those_of_spacy(
    english: Tokenizer, reference: Callable[[str], Any], text: str
) -> None:
    doc = reference(text)
    words = [token.text for token in doc if not token.is_space]
    assert english.words(text).texts == words
    assert english.sentences(text, enough=10**6) == max(1, len(list(doc.sents)))


@pytest.mark.parametrize(("first", "second"), [("has):", "-("), ("x:)", ")"), ("a:(", "(8")])
def test_special_case_over_a_space_suppresses_one_inside_a_chunk(
    english: Tokenizer, first: str, second: str
) -> None:
    plain = spacy.blank("en")
    together = [token.text for token in plain(f"{first} {second}")]
    assert together != [token.text for text in (first, second) for token in plain(text)]
    # A line end between chunks separates them, so that only the dependent line is affected.
    found = english.words(f"{first}\n{second}\n{first} {second}").texts
    assert found == [
        *(token.text for text in (first, second) for token in plain(text)),
        *together,
    ]


@pytest.mark.parametrize("language", ["es", "el"])
def test_special_cases_that_contain_a_space(language: str) -> None:
    plain = spacy.blank(language)
    rules: Any = plain.tokenizer
    cases = [case for case in rules.rules if len(case.split()) > 1]
    assert cases
    tokenizer = Tokenizer(language)
    for case in cases:
        text = f"abc {case} def."
        assert tokenizer.words(text).texts == [
            token.text for token in plain(text) if not token.is_space
        ]


def test_words_have_the_properties_that_rules_count(english: Tokenizer) -> None:
    words = english.words("The cat — 42 … naïve!")
    assert words.texts == ["The", "cat", "—", "42", "…", "naïve", "!"]
    vocabulary, numbers = words.vocabulary, words.numbers
    assert words.lengths.tolist() == [3, 3, 1, 2, 1, 5, 1]
    assert vocabulary.symbols(numbers).tolist() == [False, False, True, False, True, False, True]
    assert vocabulary.letters(numbers).tolist() == [True, True, False, False, False, True, False]
    assert words.count_distinct(frozenset({"cat", "The", "dog"})) == 2


def test_cleared_table_changes_no_result(english: Tokenizer) -> None:
    text = "Results returned before stay valid, e.g. this one."
    before = english.words(text)
    english.clear()
    assert english.bytes == 0
    english.words("Other words take the numbers of the earlier ones.")
    assert english.words(text).texts == before.texts
    assert before.lengths.tolist() == english.words(text).lengths.tolist()


@pytest.mark.parametrize("unit", ["(", "a", "'"])
def test_long_chunks_are_cut(english: Tokenizer, unit: str) -> None:
    size = 4 * MAX_CHUNK
    chunk = (unit * size)[:size]
    words = english.words(f"Before {chunk} after.").texts
    assert "".join(words) == f"Before{chunk}after."
    assert max(map(len, words)) <= MAX_CHUNK
    assert not any(len(known) > CUT_CHUNK for known in english.words(chunk).vocabulary.chunks)


def test_tokenizer_does_not_load_torch() -> None:
    program = (
        "import sys; from training.corpus.quality.words import Tokenizer; Tokenizer('en');"
        "print('torch' in sys.modules, 'spacy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_language_without_a_tokenizer_of_its_own_is_refused() -> None:
    with pytest.raises(CorpusError) as raised:
        Tokenizer("zh")
    assert raised.value.field == "language"
