"""Vocabulary: search for similar spellings is complete."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.enhancer.correction.vocabulary import Vocabulary, american, distance

WORDS = (
    "the",
    "then",
    "than",
    "capital",
    "captain",
    "learn",
    "lean",
    "letter",
    "later",
    "boss",
    "box",
    "definitely",
    "france",
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(dict.fromkeys(WORDS, 1), {})


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("teh", "the", 1),
        ("lern", "learn", 1),
        ("captial", "capital", 1),
        ("definately", "definitely", 1),
        ("abc", "abc", 0),
        ("ca", "abc", 3),
    ],
)
def test_distance_is_optimal_string_alignment(left: str, right: str, expected: int) -> None:
    assert distance(left, right, 3) == distance(right, left, 3) == expected


@settings(max_examples=200)
@given(st.sampled_from(WORDS), st.data())
def test_word_with_one_or_two_typos_is_found_with_its_distance(
    vocabulary: Vocabulary, word: str, data: st.DataObject
) -> None:
    typed = word
    for _ in range(data.draw(st.integers(1, 2))):
        position = data.draw(st.integers(0, len(typed)))
        letter = data.draw(st.sampled_from("aeiost"))
        typed = data.draw(
            st.sampled_from(
                (
                    typed[:position] + letter + typed[position:],
                    typed[:position] + typed[position + 1 :],
                )
            )
        )
    found = dict(vocabulary.similar(typed, 2)) if typed else {}
    true = distance(typed, word, 2)
    if typed and 0 < true <= 2:
        assert found[word] == true
    assert all(0 < typos <= 2 for typos in found.values())


def test_british_spellings_become_american() -> None:
    assert american("colours") == "colors"
    assert american("analyse") == "analyze"
    assert american("travelling") == "traveling"
    assert american("four") == "four"
