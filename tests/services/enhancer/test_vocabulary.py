"""Words that are spelled alike are found, and all of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.enhancer.vocabulary import Vocabulary, american, distance

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
def test_the_distance_is_that_of_optimal_string_alignment(
    left: str, right: str, expected: int
) -> None:
    assert distance(left, right, 3) == distance(right, left, 3) == expected


@settings(max_examples=200)
@given(st.sampled_from(WORDS), st.data())
def test_a_word_with_one_or_two_slips_is_found_with_its_distance(
    vocabulary: Vocabulary, word: str, data: st.DataObject
) -> None:
    typed = word
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(typed)))
        letter = data.draw(st.sampled_from("aeiost"))
        typed = data.draw(
            st.sampled_from(
                (typed[:place] + letter + typed[place:], typed[:place] + typed[place + 1 :])
            )
        )
    found = dict(vocabulary.similar(typed, 2)) if typed else {}
    true = distance(typed, word, 2)
    if typed and 0 < true <= 2:
        assert found[word] == true
    assert all(0 < slips <= 2 for slips in found.values())


def test_american_and_british_spellings_are_twins() -> None:
    assert american("colours") == "colors"
    assert american("analyse") == "analyze"
    assert american("travelling") == "traveling"
    assert american("four") == "four"
