"""Display of tokens: text as text, invisible characters as marks, partial characters as bytes."""

from itertools import pairwise

import pytest
from hypothesis import given

from tests.training.tokenization.sample_tokenizers import unicode_texts
from training.recipes.tokenizer.page import COLOURS, Part, chips
from training.tokenization.text_tokenizer import Piece


def parts(content: bytes | str) -> tuple[Part, ...]:
    encoded = content.encode() if isinstance(content, str) else content
    return chips([Piece(7, encoded)])[0].parts


def mark(text: str) -> Part:
    return Part(text, is_mark=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (" the", (Part(" the"),)),
        ("   ", (Part("   "),)),
        (".\n\n", (Part("."), mark("⏎"), Part("\n"), mark("⏎"), Part("\n"))),
        ("\r\n", (mark("U+000D"), mark("⏎"), Part("\n"))),
        ("\tx", (mark("→"), Part("\t"), Part("x"))),
        ("\0", (mark("U+0000"),)),
        ("a\u202eb", (Part("a"), mark("U+202E"), Part("b"))),
        ("\xa0x", (mark("U+00A0"), Part("x"))),
        ("\ufeff", (mark("U+FEFF"),)),
        ("\u0301", (mark("◌"), Part("\u0301"))),
        ("e\u0301", (Part("e\u0301"),)),
        ("\u200d", (mark("U+200D"),)),
        ("👩\u200d👧", (Part("👩\u200d👧"),)),
        ("שלום", (Part("שלום"),)),
        ("", (mark("∅"),)),
        (b"\xf0\x9f", (mark("F0 9F"),)),
        (b" \xe6", (mark("20 E6"),)),
    ],
)
def test_token_is_displayed_as_text_or_marks(
    content: bytes | str, expected: tuple[Part, ...]
) -> None:
    assert parts(content) == expected


def test_partial_characters_are_named_in_the_title() -> None:
    drawn = chips([Piece(1, b"a\xf0"), Piece(2, b"\x9f"), Piece(3, b"\x98\x80b")])
    assert [chip.title for chip in drawn] == [
        "id 1, 2 bytes: 61 F0, part of a U+0061, 😀 U+1F600",
        "id 2, 1 byte: 9F, part of 😀 U+1F600",
        "id 3, 3 bytes: 98 80 62, part of 😀 U+1F600, b U+0062",
    ]
    assert all(chip.style.endswith(" part") for chip in drawn)


def test_title_has_id_bytes_and_code_points() -> None:
    plain, accent, unknown = chips(
        [Piece(5, b" th"), Piece(6, "é\n".encode()), Piece(0, b"xyz", known=False)]
    )
    assert plain.title == "id 5, 3 bytes: 20 74 68"
    assert accent.title == "id 6, 3 bytes: C3 A9 0A, U+00E9, U+000A"
    assert (unknown.title, unknown.style) == ("id 0 (unknown), 3 bytes: 78 79 7A", "unknown")


def test_title_of_a_long_token_is_bounded() -> None:
    assert len(chips([Piece(1, "é".encode() * 10_000)])[0].title) < 200


def test_neighbours_differ_in_colour() -> None:
    styles = [chip.style for chip in chips([Piece(1, b"a")] * 20)]
    assert all(one != other for one, other in pairwise(styles))
    assert len(set(styles)) == COLOURS


@given(unicode_texts)
def test_displayed_parts_are_the_text_except_invisible_characters(text: str) -> None:
    drawn = "".join(part.text for part in parts(text) if not part.is_mark)
    unseen = "".join(
        part.text for part in parts(text) if part.text.startswith("U+") and part.is_mark
    )
    assert len(drawn) + unseen.count("U+") == len(text)
    rest = iter(text)
    assert all(letter in rest for letter in drawn), "the order is kept"
