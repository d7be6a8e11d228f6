"""tiktoken's ids are the library's: on every code point, on what hypothesis thinks of, and on what
makes tiktoken panic.
"""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from tokenizers import Tokenizer

from tests.training.tokenization.made import HARD, TEXT, learned, unicode_texts
from training.tokenization.byte_pairs import bytes_by_letter
from training.tokenization.control import CONTROL
from training.tokenization.opened import BytePairs, LibraryTokenizer
from training.tokenization.splitting import Split
from training.tokenization.tiktoken_encoding import encoding_of, hindrance

SPLITS = {split: learned(800, split) for split in Split}
# The planes after these two hold ideographs alone, and the tags of U+E0000.
CODE_POINTS = (*range(0xD800), *range(0xE000, 0x20100), *range(0xE0000, 0xE0200))


def spec_of(tokenizer: Tokenizer) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    return spec


def both(split: Split) -> tuple[LibraryTokenizer, BytePairs]:
    tokenizer = SPLITS[split]
    library = LibraryTokenizer("ours", tokenizer, spec_of(tokenizer))
    return library, BytePairs(library, encoding_of(tokenizer, spec_of(tokenizer), "ours"))


BOTH = {split: both(split) for split in Split}


@pytest.fixture(params=Split, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[LibraryTokenizer, BytePairs]:
    return BOTH[request.param]


@pytest.mark.parametrize("text", [*HARD, TEXT], ids=range(len(HARD) + 1))
def test_hard_texts_have_the_librarys_ids_and_come_back(
    pair: tuple[LibraryTokenizer, BytePairs], text: str
) -> None:
    library, ours = pair
    ids = ours.encode(text)
    assert ids == library.encode(text)
    assert ours.decode(ids) == library.decode(ids) == text


@given(unicode_texts)
def test_any_text_has_the_librarys_ids_and_comes_back(text: str) -> None:
    for split in Split:
        library, ours = BOTH[split]
        ids = ours.encode(text)
        assert ids == library.encode(text)
        assert ours.decode(ids) == text


def test_every_code_point_is_cut_alike_by_both_engines(
    pair: tuple[LibraryTokenizer, BytePairs],
) -> None:
    library, ours = pair
    for start in range(0, len(CODE_POINTS), 10_000):
        text = "".join(f"{c}1 {c}'{c}\n" for c in map(chr, CODE_POINTS[start : start + 10_000]))
        assert ours.encode(text) == library.encode(text), f"from U+{CODE_POINTS[start]:04X}"


def test_a_run_of_white_space_that_makes_tiktoken_panic_is_encoded(
    pair: tuple[LibraryTokenizer, BytePairs],
) -> None:
    _, ours = pair
    text = f"x{' ' * 1_100_000}x"
    ids = ours.encode(text)
    assert ours.decode(ids) == text


@pytest.mark.parametrize("more", [(), (f"x{' ' * 1_100_000}",)], ids=["short", "with a long run"])
def test_many_texts_at_once_have_the_ids_of_each(
    pair: tuple[LibraryTokenizer, BytePairs], more: tuple[str, ...]
) -> None:
    texts = [*HARD, TEXT, *more]
    wanted = [pair[0].encode(text) for text in texts]
    assert [tokenizer.encode_all(texts) for tokenizer in pair] == [wanted, wanted]


def test_a_control_token_that_is_spelled_out_is_text(
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


def test_half_a_character_decodes_to_a_replacement_and_no_error(
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
def test_what_tiktoken_would_read_otherwise_is_named(path: str, value: object) -> None:
    spec = changed(path, value)
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert path in hindrance(tokenizer, spec)
    with pytest.raises(ValueError, match=re.escape(path)):
        encoding_of(tokenizer, spec, "theirs")


def test_a_token_that_the_merges_never_reach_is_a_hindrance() -> None:
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
    reason = hindrance(tokenizer, spec)
    assert "model.vocab" in reason
    assert "'abc'" in reason


def test_nothing_hinders_what_we_learn() -> None:
    assert [hindrance(tokenizer, spec_of(tokenizer)) for tokenizer in SPLITS.values()] == ["", ""]
