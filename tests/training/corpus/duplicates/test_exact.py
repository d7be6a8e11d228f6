"""Digests of exact duplicates."""

import pytest

from training.corpus.duplicates.exact import DIGEST_BYTES, digest


@pytest.mark.parametrize(
    ("first", "second"),
    [("a b", "  a\n\tb "), ("e\u0301", "é"), ("a\u00a0b", "a b"), ("a\ud800", "a?")],
)
def test_normalised_texts_are_equal(first: str, second: str) -> None:
    assert digest(first) == digest(second)
    assert len(digest(first)) == DIGEST_BYTES


@pytest.mark.parametrize(("first", "second"), [("a b", "ab"), ("a", "A"), ("a", "a."), ("", "a")])
def test_other_texts_differ(first: str, second: str) -> None:
    assert digest(first) != digest(second)
