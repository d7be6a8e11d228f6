"""Parts around the windows of the linear classifier."""

from hypothesis import given
from hypothesis import strategies as st

from services.guardrail.detection.classifier import BLOCK_CHARACTERS, WINDOW_CHARACTERS
from services.guardrail.encoder.parts import AFTER, BEFORE, MAX_PARTS, Part, parts

TEXTS = st.lists(st.text("abcdefgh", min_size=1, max_size=40), max_size=400).map(" ".join)


@given(TEXTS, st.data())
def test_windows_with_the_highest_margins_are_in_a_part(text: str, data: st.DataObject) -> None:
    starts = range(0, max(1, len(text) - BLOCK_CHARACTERS), BLOCK_CHARACTERS)
    chosen = data.draw(st.lists(st.sampled_from(starts), unique=True, max_size=3))
    windows = [(float(data.draw(st.integers(-2, 3))), start) for start in chosen]
    found = parts(text, windows)
    assert all(part.text in text for part in found)
    assert all(len(part.text) <= BEFORE + AFTER for part in found)
    for margin, start in windows:
        window = text[start : start + WINDOW_CHARACTERS]
        assert any(window in part.text and part.margin >= margin for part in found)


def test_short_text_is_one_part_with_the_highest_margin() -> None:
    assert parts("a b", [(-1.0, 0), (0.5, 100)]) == [Part("a b", 0.5)]
    assert parts("a b", []) == []


def test_number_of_parts_is_bounded() -> None:
    text = "word " * 4_000
    windows = [(start / 1_000, start) for start in range(0, len(text), BLOCK_CHARACTERS)]
    found = parts(text, windows)
    assert len(found) == MAX_PARTS
    assert found[0].margin == max(windows)[0]
