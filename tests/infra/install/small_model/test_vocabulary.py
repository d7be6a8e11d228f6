"""Closed sets of pieces: a smaller vocabulary encodes like the whole vocabulary."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infra.install.small_model.tokenizer import PieceKind, Pieces, build_tokenizer
from infra.install.small_model.vocabulary import (
    choose_pieces,
    derivation,
    read_kept_pieces,
    write_kept_pieces,
)

CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
LEARNED = ["ab", "cd", "abc", "bc", "abcd", "abab", "dd", "ddd", "bcd", "cdab", "xyz"]


def pieces() -> Pieces:
    ascii_texts = [chr(code) for code in range(33, 127)]
    texts = [*CONTROLS, *LEARNED, *ascii_texts]
    kinds = [PieceKind.CONTROL] * len(CONTROLS) + [PieceKind.NORMAL] * (
        len(LEARNED) + len(ascii_texts)
    )
    return Pieces(texts, [-float(i) for i in range(len(texts))], kinds)


def kept(*wanted: str, size: int = 1000) -> list[int]:
    return choose_pieces(pieces(), [pieces().texts.index(text) for text in wanted], size)


def names(ids: list[int]) -> set[str]:
    return {pieces().texts[index] for index in ids} & set(LEARNED)


def test_piece_includes_its_derivation() -> None:
    assert names(kept("abcd")) == {"ab", "cd", "abcd"}


def test_unreachable_piece_is_omitted() -> None:
    assert names(kept("xyz", "bcd")) == {"cd", "bcd"}


def test_piece_is_omitted_if_its_derivation_does_not_fit() -> None:
    always = len(kept())
    assert names(kept("abcd", "dd", size=always + 2)) == {"dd"}


def test_best_leftmost_pair_is_merged_first() -> None:
    assert derivation("ddd", {("d", "d"): 0, ("dd", "d"): 1}) == ["d", "d", "d", "dd", "ddd"]


@given(st.text(alphabet="abcdxyz", max_size=12), st.sets(st.sampled_from(LEARNED)))
def test_closed_set_encodes_like_the_whole_vocabulary(text: str, wanted: set[str]) -> None:
    chosen = kept(*sorted(wanted))
    whole, small = build_tokenizer(pieces()), build_tokenizer(pieces().subset(chosen))
    expected = whole.encode(text).ids
    found = [chosen[index] for index in small.encode(text).ids]
    assert (found == expected) == set(expected).issubset(chosen)


def test_committed_file_has_a_bit_per_piece(tmp_path: Path) -> None:
    write_kept_pieces([0, 3, 9], 16, tmp_path / "kept.bits")
    assert (tmp_path / "kept.bits").stat().st_size == 2
    assert read_kept_pieces(tmp_path / "kept.bits") == [0, 3, 9]
