"""Composition of edits from several rounds into edits of the original."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.enhancer.correction.edits import Draft, Edit, EditKind, apply, without_overlaps


def test_word_corrected_twice_is_one_edit() -> None:
    draft = Draft("in frnace")
    draft.revise([Edit(3, 9, "france", EditKind.SPELLING)])
    draft.revise([Edit(3, 4, "F", EditKind.CAPITAL), Edit(9, 9, "?", EditKind.PUNCTUATION)])
    assert draft.text == "in France?"
    assert draft.edits() == (
        Edit(3, 9, "France", EditKind.SPELLING),
        Edit(9, 9, "?", EditKind.PUNCTUATION),
    )


def test_reverted_change_is_no_edit() -> None:
    draft = Draft("abc")
    draft.revise([Edit(1, 2, "x", EditKind.SPELLING)])
    draft.revise([Edit(1, 2, "b", EditKind.SPELLING)])
    assert draft.edits() == ()


def test_first_of_overlapping_edits_is_applied() -> None:
    first, second = Edit(0, 3, "x", EditKind.SPELLING), Edit(2, 4, "y", EditKind.GRAMMAR)
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
                data.draw(st.sampled_from(list(EditKind))),
            )
        )
    return edits


@given(st.text("abc é", max_size=15), st.data())
def test_composed_edits_rebuild_the_text_from_the_original(
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
