"""Ids of fixed texts tell tokenizers apart that differ in a detail."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from chat_format.errors import ChatFormatError
from chat_format.tokenizer_check import (
    FILE,
    TEXTS,
    compare_all,
    read_token_ids,
    token_ids,
    write_token_ids,
)
from tests.support.errors import refused
from tests.support.tokenizers_with_markers import CHATML, write_tokenizer


def learned(*words: str) -> Tokenizer:
    """Return a byte-level tokenizer with merges of these words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(CHATML),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *words] * 3, trainer)
    return tokenizer


def split_digits(tokenizer: Tokenizer) -> None:
    split = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])


def prefix_space(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def normalised(normalizer: normalizers.Normalizer) -> Callable[[Tokenizer], None]:
    def change(tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = normalizer

    return change


@pytest.mark.parametrize(
    "change",
    [
        split_digits,
        prefix_space,
        normalised(normalizers.NFC()),
        normalised(normalizers.NFKC()),
        normalised(normalizers.Lowercase()),
        normalised(normalizers.Strip()),
        normalised(normalizers.StripAccents()),
        normalised(normalizers.Replace("\r\n", "\n")),
        normalised(normalizers.Replace("  ", " ")),
        normalised(normalizers.Replace("’", "'")),
    ],
)
def test_a_detail_changes_the_ids(tmp_path: Path, change: Callable[[Tokenizer], None]) -> None:
    first = write_tokenizer(tmp_path / "first", learned())
    other = learned()
    change(other)
    second = write_tokenizer(tmp_path / "second", other)
    compare_all(token_ids(first), token_ids(first))
    with refused(ChatFormatError, field="tokenizer", reason="MISMATCH"):
        compare_all(token_ids(first), token_ids(second))


def test_another_merge_and_a_missing_control_token_change_the_ids(tmp_path: Path) -> None:
    first = token_ids(write_tokenizer(tmp_path / "first", learned()))
    other = token_ids(write_tokenizer(tmp_path / "other", learned(*["John’s Hello"] * 99)))
    with refused(ChatFormatError, field="tokenizer", reason="MISMATCH"):
        compare_all(first, other)
    path = tmp_path / "first" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].pop()
    bare = Tokenizer.from_str(json.dumps(content))
    found = {text: bare.encode(text, add_special_tokens=False).ids for text in first}
    with refused(ChatFormatError, field="tokenizer", reason="MISMATCH") as caught:
        compare_all(first, found)
    # The only text with control tokens is the one that differs.
    assert "<|im_end|>" in caught.value.text


@pytest.mark.parametrize(
    ("found", "place", "seen", "expected"),
    [([1, 9, 3], 2, "id 9", "id 2"), ([1, 2], 3, "no further id", "id 3"),
     ([1, 2, 3, 4], 4, "id 4", "no further id")],
)  # fmt: skip
def test_the_first_difference_is_named(
    found: list[int], place: int, seen: str, expected: str
) -> None:
    with refused(ChatFormatError, field="tokenizer", limit=expected) as caught:
        compare_all({"a text": [1, 2, 3]}, {"a text": found})
    assert f"token {place} of 'a text' is {seen}" in caught.value.text


def test_ids_are_written_beside_the_tokenizer(tmp_path: Path) -> None:
    assert read_token_ids(tmp_path) is None
    write_token_ids(write_tokenizer(tmp_path, learned()))
    found = read_token_ids(tmp_path)
    assert found == token_ids(tmp_path)
    assert set(TEXTS) < set(found)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 7}', '{"a": ["x"]}'])
def test_a_malformed_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with refused(ChatFormatError, field=FILE, reason="MALFORMED"):
        read_token_ids(tmp_path)
