"""tiktoken gives the library's ids: for every code point, for generated and for extreme texts."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from tokenizers import Tokenizer

from tests.training.tokenization.sample_tokenizers import (
    DIFFICULT,
    TEXT,
    train_byte_pairs,
    unicode_texts,
)
from training.tokenization.byte_pairs import bytes_by_letter
from training.tokenization.control import CONTROL
from training.tokenization.splitting import Split
from training.tokenization.text_tokenizer import BytePairs, LibraryTokenizer
from training.tokenization.tiktoken_encoding import incompatibility, to_tiktoken

SPLITS = {split: train_byte_pairs(800, split) for split in Split}
# Later planes contain only ideographs, and the tags of U+E0000.
CODE_POINTS = (*range(0xD800), *range(0xE000, 0x20100), *range(0xE0000, 0xE0200))


def spec_of(tokenizer: Tokenizer) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    return spec


def both(split: Split) -> tuple[LibraryTokenizer, BytePairs]:
    tokenizer = SPLITS[split]
    library = LibraryTokenizer("ours", tokenizer, spec_of(tokenizer))
    return library, BytePairs(library, to_tiktoken(tokenizer, spec_of(tokenizer), "ours"))


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
