"""Tokenizers opened from directories: kinds, bytes, refused directories, and ids as in tiktoken."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.support.errors import refused
from tests.training.tokenization.sample_tokenizers import (
    DIFFICULT,
    TEXT,
    open_trained,
    train_byte_pairs,
    unicode_texts,
)
from training.tokenization.byte_pairs import CONTROL, Split, bytes_by_letter, write_tokenizer
from training.tokenization.learning import TokenKind
from training.tokenization.text_tokenizer import (
    BytePairs,
    LibraryTokenizer,
    Piece,
    TextTokenizer,
    TokenizerError,
    incompatibility,
    open_tokenizer,
    to_tiktoken,
)

NANO = Path(__file__).parents[3] / "models" / "nano"
SPLITS = {split: train_byte_pairs(800, split) for split in Split}
# Later planes contain only ideographs, and the tags of U+E0000.
CODE_POINTS = (*range(0xD800), *range(0xE000, 0x20100), *range(0xE0000, 0xE0200))


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> list[TextTokenizer]:
    home = tmp_path_factory.mktemp("tokenizers")
    kinds = (TokenKind.BYTE_PAIRS, TokenKind.CHARACTERS)  # words lose the white space
    ours = [open_trained(home / kind, kind, 600) for kind in kinds]
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
    assert found == [BytePairs, LibraryTokenizer, BytePairs, LibraryTokenizer]
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


def spec_of(tokenizer: Tokenizer) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    return spec


def both(split: Split) -> tuple[LibraryTokenizer, BytePairs]:
    tokenizer = SPLITS[split]
    library = LibraryTokenizer("ours", tokenizer, spec_of(tokenizer))
    return library, BytePairs(to_tiktoken(tokenizer, spec_of(tokenizer), "ours"), library)


BOTH = {split: both(split) for split in Split}


@pytest.fixture(params=Split, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[LibraryTokenizer, BytePairs]:
    return BOTH[request.param]


@pytest.mark.parametrize("text", [*DIFFICULT, TEXT], ids=range(len(DIFFICULT) + 1))
def test_difficult_texts_have_the_librarys_ids_and_round_trip(
    pair: tuple[LibraryTokenizer, BytePairs], text: str
) -> None:
    library, ours = pair
    ids = ours.encode(text)
    assert ids == library.encode(text)
    assert ours.decode(ids) == library.decode(ids) == text


@given(unicode_texts)
def test_any_text_has_the_librarys_ids_and_round_trips(text: str) -> None:
    for split in Split:
        library, ours = BOTH[split]
        ids = ours.encode(text)
        assert ids == library.encode(text)
        assert ours.decode(ids) == text


def test_both_engines_split_every_code_point_equally(
    pair: tuple[LibraryTokenizer, BytePairs],
) -> None:
    library, ours = pair
    for start in range(0, len(CODE_POINTS), 10_000):
        text = "".join(f"{c}1 {c}'{c}\n" for c in map(chr, CODE_POINTS[start : start + 10_000]))
        assert ours.encode(text) == library.encode(text), f"from U+{CODE_POINTS[start]:04X}"


def test_white_space_beyond_tiktokens_limit_is_encoded(
    pair: tuple[LibraryTokenizer, BytePairs],
) -> None:
    _, ours = pair
    text = f"x{' ' * 1_100_000}x"
    ids = ours.encode(text)
    assert ours.decode(ids) == text


@pytest.mark.parametrize("more", [(), (f"x{' ' * 1_100_000}",)], ids=["short", "with a long run"])
def test_encoding_texts_together_equals_encoding_each(
    pair: tuple[LibraryTokenizer, BytePairs], more: tuple[str, ...]
) -> None:
    texts = [*DIFFICULT, TEXT, *more]
    wanted = [pair[0].encode(text) for text in texts]
    assert [tokenizer.encode_all(texts) for tokenizer in pair] == [wanted, wanted]


def test_spelled_out_control_token_is_text(
    pair: tuple[LibraryTokenizer, BytePairs],
) -> None:
    for token in CONTROL:
        for tokenizer in pair:
            ids = tokenizer.encode(f"a{token}b")
            assert not set(ids) & set(range(len(CONTROL)))
            assert tokenizer.decode(ids) == f"a{token}b"


def test_control_ids_decode_to_their_tokens(pair: tuple[LibraryTokenizer, BytePairs]) -> None:
    for tokenizer in pair:
        assert tokenizer.decode(range(len(CONTROL))) == "".join(CONTROL)


def test_incomplete_character_decodes_to_a_replacement_character(
    pair: tuple[LibraryTokenizer, BytePairs],
) -> None:
    _, ours = pair
    assert ours.decode(ours.encode("😀")[:1]) == "\ufffd"


def changed(path: str, value: object) -> dict[str, Any]:
    spec = spec_of(SPLITS[Split.GPT4])
    inner = spec
    *outer, last = path.split(".")
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return spec


SPACES = {
    "id": 6,
    "content": "Ġ",
    "special": False,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
}
SWAPPED = spec_of(SPLITS[Split.GPT4])["model"]["merges"][::-1]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.ignore_merges", True),
        ("model.byte_fallback", True),
        ("model.end_of_word_suffix", "</w>"),
        ("normalizer", {"type": "NFC"}),
        (
            "pre_tokenizer",
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
        ),
        ("added_tokens", [SPACES | {"normalized": False}]),
        ("model.merges", SWAPPED),
    ],
)
def test_incompatibility_with_tiktoken_is_named(path: str, value: object) -> None:
    spec = changed(path, value)
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert path in incompatibility(tokenizer, spec)
    with pytest.raises(ValueError, match=re.escape(path)):
        to_tiktoken(tokenizer, spec, "theirs")


def test_token_unreachable_by_merges_is_incompatible() -> None:
    """Merges ab, bc, a+bc: "abc" is ab+c to the library and one token to tiktoken."""
    vocab = {letter: number for number, letter in enumerate(bytes_by_letter())} | {
        "ab": 256,
        "bc": 257,
        "abc": 258,
    }
    spec = spec_of(SPLITS[Split.GPT4])
    spec["added_tokens"] = []
    spec["model"] |= {"vocab": vocab, "merges": [["a", "b"], ["b", "c"], ["a", "bc"]]}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert len(tokenizer.encode("abc").ids) == 2
    reason = incompatibility(tokenizer, spec)
    assert "model.vocab" in reason
    assert "'abc'" in reason


def test_our_trained_tokenizers_are_compatible() -> None:
    assert [incompatibility(tokenizer, spec_of(tokenizer)) for tokenizer in SPLITS.values()] == [
        "",
        "",
    ]
