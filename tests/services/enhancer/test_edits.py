"""Edits made in rounds are one set of edits on the original."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.enhancer.edits import Draft, Edit, Kind, apply, without_overlaps


def test_a_word_corrected_twice_is_one_edit() -> None:
    draft = Draft("in frnace")
    draft.revise([Edit(3, 9, "france", Kind.SPELLING)])
    draft.revise([Edit(3, 4, "F", Kind.CAPITAL), Edit(9, 9, "?", Kind.PUNCTUATION)])
    assert draft.text == "in France?"
    assert draft.edits() == (Edit(3, 9, "France", Kind.SPELLING), Edit(9, 9, "?", Kind.PUNCTUATION))


def test_what_was_changed_and_changed_back_is_no_edit() -> None:
    draft = Draft("abc")
    draft.revise([Edit(1, 2, "x", Kind.SPELLING)])
    draft.revise([Edit(1, 2, "b", Kind.SPELLING)])
    assert draft.edits() == ()


def test_of_overlapping_edits_the_first_stands() -> None:
    first, second = Edit(0, 3, "x", Kind.SPELLING), Edit(2, 4, "y", Kind.GRAMMAR)
    assert without_overlaps([second, first]) == [first]


def rounds_of(data: st.DataObject, draft: Draft) -> list[Edit]:
    edits = []
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(draft.text)))
        end = data.draw(st.integers(start, min(len(draft.text), start + 4)))
        edits.append(
            Edit(
                start,
                end,
                data.draw(st.text("xyz ", max_size=3)),
                data.draw(st.sampled_from(list(Kind))),
            )
        )
    return edits


@given(st.text("abc é", max_size=15), st.data())
def test_the_edits_of_any_rounds_rebuild_the_text_from_the_original(
    original: str, data: st.DataObject
) -> None:
    draft = Draft(original)
    for _ in range(data.draw(st.integers(1, 4))):
        draft.revise(rounds_of(data, draft))
    edits = draft.edits()
    assert apply(original, edits) == draft.text
    for edit, following in pairwise(edits):
        assert edit.end <= following.start
        assert (
            edit.start < edit.end or following.start > edit.start or following.end > following.start
        )
