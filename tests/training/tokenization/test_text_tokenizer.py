"""Tokenizers opened from directories: kinds, bytes of tokens, and refused directories."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.support.errors import refused
from tests.training.tokenization.sample_tokenizers import (
    DIFFICULT,
    open_trained,
    train_byte_pairs,
    unicode_texts,
)
from training.recipes.tokenizer.learning import TokenKind
from training.tokenization.control import write_tokenizer
from training.tokenization.splitting import Split
from training.tokenization.text_tokenizer import (
    BytePairs,
    LibraryTokenizer,
    Piece,
    TextTokenizer,
    TokenizerError,
    open_tokenizer,
)

NANO = Path(__file__).parents[3] / "models" / "nano"


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> list[TextTokenizer]:
    home = tmp_path_factory.mktemp("tokenizers")
    ours = [open_trained(home / kind, kind, 600) for kind in TokenKind]
    write_tokenizer(with_byte_fallback(), home / "fallback")
    return [
        *ours,
        open_trained(home / "gpt2", TokenKind.BYTE_PAIRS, 600, Split.GPT2),
        open_tokenizer(home / "fallback"),
    ]


def with_byte_fallback() -> Tokenizer:
    """Return a tokenizer like SentencePiece's and Gemma's.

    Spaces have a sign, and characters outside the vocabulary become bytes.
    """
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {
        "▁": 256,
        "a": 257,
        "b": 258,
        "ab": 259,
        "▁ab": 260,
    }
    merges = [("a", "b"), ("▁", "ab")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<0x3F>")
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def test_our_byte_pairs_use_tiktoken_and_others_use_the_library(
    all_kinds: list[TextTokenizer],
) -> None:
    found = [type(tokenizer) for tokenizer in all_kinds]
    assert found == [BytePairs, LibraryTokenizer, LibraryTokenizer, BytePairs, LibraryTokenizer]
    assert isinstance(open_tokenizer(NANO), BytePairs)


@given(text=unicode_texts)
def test_bytes_of_the_tokens_join_to_the_text(all_kinds: list[TextTokenizer], text: str) -> None:
    for tokenizer in all_kinds:
        pieces = tokenizer.pieces(text)
        assert b"".join(piece.content for piece in pieces) == text.encode()
        assert [piece.id for piece in pieces] == tokenizer.encode(text)
        assert sum(not piece.known for piece in pieces) == tokenizer.unknowns(
            tokenizer.encode(text)
        )


@pytest.mark.parametrize("text", DIFFICULT, ids=range(len(DIFFICULT)))
def test_bytes_of_the_tokens_join_to_difficult_texts(
    all_kinds: list[TextTokenizer], text: str
) -> None:
    for tokenizer in all_kinds:
        assert b"".join(piece.content for piece in tokenizer.pieces(text)) == text.encode()


def test_foreign_byte_pairs_give_the_bytes_of_their_letters(tmp_path: Path) -> None:
    """Llama 3 and Qwen split and merge differently; their tokens use the same alphabet."""
    tokenizer = train_byte_pairs(600)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_tokens(["  "])
    write_tokenizer(tokenizer, tmp_path)
    theirs = open_tokenizer(tmp_path)
    assert isinstance(theirs, LibraryTokenizer)
    for text in (*DIFFICULT, "a  é"):
        assert b"".join(piece.content for piece in theirs.pieces(text)) == text.encode()


def test_byte_fallback_tokens_give_their_bytes(all_kinds: list[TextTokenizer]) -> None:
    assert all_kinds[-1].pieces(" abé") == [
        Piece(260, b" ab"),
        Piece(0xC3, b"\xc3"),
        Piece(0xA9, b"\xa9"),
    ]


def with_config(directory: Path, config: dict[str, Any]) -> Path:
    write_tokenizer(train_byte_pairs(300), directory)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    directory = with_config(tmp_path / "model", {"vocab_size": 299})
    with refused(TokenizerError, field="tokenizer.json", reason="TOO_LARGE", limit="299") as caught:
        open_tokenizer(directory)
    assert "300" in caught.value.text


def test_embedding_rows_of_the_text_model_are_compared(tmp_path: Path) -> None:
    directory = with_config(tmp_path / "model", {"text_config": {"vocab_size": 299}})
    with refused(TokenizerError, field="tokenizer.json", reason="TOO_LARGE", limit="299"):
        open_tokenizer(directory)


@pytest.mark.parametrize("config", [{"vocab_size": 300}, {"vocab_size": 320}, {}])
def test_larger_embedding_is_accepted(tmp_path: Path, config: dict[str, Any]) -> None:
    assert open_tokenizer(with_config(tmp_path / "model", config)).vocabulary_size == 300


def test_unused_id_counts_towards_the_vocabulary_size(tmp_path: Path) -> None:
    vocab = {"a": 0, "b": 7, "<unk>": 1}
    write_tokenizer(Tokenizer(models.WordLevel(vocab, unk_token="<unk>")), tmp_path)
    assert open_tokenizer(tmp_path).vocabulary_size == 8


def test_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with refused(TokenizerError, field=str(tmp_path / "nothing"), reason="MISSING"):
        open_tokenizer(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "Magic"}}'])
def test_malformed_tokenizer_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with refused(TokenizerError, field="tokenizer.json", reason="MALFORMED"):
        open_tokenizer(tmp_path)
