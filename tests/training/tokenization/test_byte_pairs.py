"""Byte pairs: learned tokens, determinism, and bounded memory."""

import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from tests.support.errors import refused
from tests.training.tokenization.sample_tokenizers import DIFFICULT, TEXT, train_byte_pairs
from training.errors import ConfigError
from training.recipes.nano_world.bases import NANO
from training.recipes.nano_world.corpus import conversations, stories
from training.recipes.nano_world.train_base import SEED
from training.tokenization.byte_pairs import (
    CONTROL,
    MIN_VOCABULARY,
    Split,
    bytes_by_letter,
    learn_byte_pairs,
    train_tokenizer,
    write_chat_files,
)

ROOT = Path(__file__).parents[3]
TRAIN_ONCE = """
import sys
from pathlib import Path
from training.tokenization.byte_pairs import learn_byte_pairs
from training.tokenization.byte_pairs import Split
learn_byte_pairs([Path("README.md").read_text()] * 3, 1000, Split.GPT4, 2).save(sys.argv[1])
"""


def test_nano_tokenizer_is_byte_identical_to_the_published_files(tmp_path: Path) -> None:
    chats, story_texts = (
        list(conversations(NANO.conversations, SEED))[:4000],
        list(stories(NANO.stories, SEED))[:2000],
    )
    responses = [m["content"] for row in chats for m in row["messages"]] + [
        row["response"] for row in chats
    ]
    train_tokenizer([*responses, *story_texts], NANO.shape["vocab_size"], tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "models" / "nano" / name).read_bytes(), (
            name
        )


def test_training_is_identical_across_processes_and_thread_counts(tmp_path: Path) -> None:
    for threads in ("1", "4"):
        command = [sys.executable, "-c", TRAIN_ONCE, str(tmp_path / threads)]
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "RAYON_NUM_THREADS": threads}, check=True
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "4").read_bytes()


def test_control_tokens_have_the_first_ids_followed_by_the_bytes() -> None:
    tokenizer = train_byte_pairs(300)
    assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(len(CONTROL)))
    assert {tokenizer.token_to_id(letter) for letter in bytes_by_letter()} == set(
        range(len(CONTROL), MIN_VOCABULARY)
    )
    assert tokenizer.get_vocab_size() == 300


def test_byte_alphabet_equals_the_librarys() -> None:
    assert set(bytes_by_letter()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(bytes_by_letter().values()) == list(range(256))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("~\x7f\x80\xa0\xad\xff", "é日😀", " \n"):
        written = "".join(piece for piece, _ in splitter.pre_tokenize_str(text))
        assert bytes(bytes_by_letter()[letter] for letter in written) == text.encode()


def test_too_small_vocabulary_is_refused_with_its_limit() -> None:
    with refused(
        ConfigError, field="vocabulary", reason="OUT_OF_RANGE", limit="at least 262"
    ) as caught:
        train_byte_pairs(261)
    assert {"261", "262", "256", "6"} <= set(re.findall(r"\d+", caught.value.text))
    assert train_byte_pairs(262).get_vocab_size() == 262


def test_gpt4_splitting_separates_digit_groups_and_contractions() -> None:
    texts = ["1234567 we'll WE'LL don't\n\n"] * 100
    ours = [
        token.replace("Ġ", " ").replace("Ċ", "\n")
        for token in train_byte_pairs(2000, texts=texts).get_vocab()
    ]
    assert max(len(token) for token in ours if token.isdigit()) == 3
    assert {"'ll", "'LL", "'t", " WE", "\n\n"} <= set(ours)
    older = train_byte_pairs(2000, Split.GPT2, texts).get_vocab()
    assert "1234567" in older
    assert "'ll" in older
    assert "'LL" not in older


def test_common_word_is_one_token_and_a_rare_one_its_parts() -> None:
    words = ["walk", "talk", "sing", "king"] * 20 + ["walked", "talked", "walks", "talks"] * 10
    texts = [*words, *["going", "doing", "being", "seeing", "the"] * 20]
    tokenizer = train_byte_pairs(290, texts=texts)
    assert tokenizer.encode("walking").tokens == ["walk", "ing"]
    assert tokenizer.encode("the").tokens == ["the"]


def test_most_frequent_pair_is_merged_first_until_the_requested_size() -> None:
    tokenizer = train_byte_pairs(MIN_VOCABULARY + 2, texts=["ab"] * 3 + ["cd"] * 2 + ["ef"])
    merged = {tokenizer.id_to_token(MIN_VOCABULARY), tokenizer.id_to_token(MIN_VOCABULARY + 1)}
    assert tokenizer.get_vocab_size() == MIN_VOCABULARY + 2
    assert (tokenizer.id_to_token(MIN_VOCABULARY), merged) == ("ab", {"ab", "cd"})


def test_pair_with_one_occurrence_is_merged_only_on_request() -> None:
    once = ["the quick brown fox jumps"]
    assert learn_byte_pairs(once, 500, Split.GPT4, least_count=2).get_vocab_size() == MIN_VOCABULARY
    assert learn_byte_pairs(once, 500, Split.GPT4, least_count=0).get_vocab_size() > MIN_VOCABULARY


def test_control_tokens_inside_training_texts_are_text() -> None:
    tokenizer = train_byte_pairs(600, texts=["<|end|> said <|end|>"] * 100)
    assert list(tokenizer.get_vocab()).count("<|end|>") == 1
    assert {"<|", "end", "|>"} <= set(tokenizer.get_vocab())


def test_texts_are_streamed_and_not_held_in_memory() -> None:
    texts, characters = 1500, 2000

    def many() -> Iterator[str]:
        for number in range(texts):
            yield f"text {number % 10} " * (characters // 7)

    tracemalloc.start()
    try:
        learn_byte_pairs(many(), 300, Split.GPT4, least_count=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < texts * characters / 3  # the library holds 256 texts


def test_transformers_gives_the_same_ids_for_the_directory(tmp_path: Path) -> None:
    tokenizer = train_byte_pairs(600)
    write_chat_files(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in (*DIFFICULT, TEXT):
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text).ids
    chat = [{"role": "user", "content": "hello"}]
    written = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert re.fullmatch(r"<\|begin\|><\|user\|>hello<\|end\|><\|assistant\|>", written)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(written).ids[:2] == [1, 4]
